"""Servers that answer for money: secrets, the cache of answers, the ledger, the client."""
