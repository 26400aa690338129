"""Widgets: preferences, labels, agreement, curves and training to look at and to touch in a notebook."""
