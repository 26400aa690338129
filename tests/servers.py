"""OpenAI-compatible servers on 127.0.0.1 for tests and measurements: a rule or a real model, with latency and faults.

    with Server(longer) as server: ...          # in this process, in a thread of its own
    python tests/servers.py --latency .1        # as a process; prints its port

A server counts what it is sent. It answers `GET /counts` with these counts, so that a test can look from outside.
"""

import argparse
import asyncio
import collections
import hashlib
import json
import random
import re
import threading

FREE = ("429", "500", "401", "500 with key", "400")   # nothing was computed
FAULTS = ("429", "500", "dropped", "slow", "html", "malformed", "truncated", "filtered", "too few")


def completion(text, body=None, finish="stop", **message):
    "A chat completion that says this."
    usage = {"prompt_tokens": sum(len(m["content"]) // 4 for m in (body or {}).get("messages", ())),
             "completion_tokens": len(text) // 4 + 1}
    usage["total_tokens"] = sum(usage.values())
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": (body or {}).get("model", "m"),
            "choices": [choice], "usage": usage}


def longer(body):
    "A judge that prefers the longer output, a numbered line a pair; at the same length, (a)."
    text = body["messages"][-1]["content"]
    pairs = re.findall(r"^\(a\) (.*)\n\(b\) (.*)$", text, re.M)
    return "\n".join(f"{i}: {'ab'[len(b) > len(a)]}" for i, (a, b) in enumerate(pairs, 1))


class InShape:
    "Answers in the form that each of AlpacaFarm's thirteen asks for, with verdicts drawn anew each time."

    def __init__(self, seed=0): self.rng = random.Random(seed)

    def __call__(self, body):
        text = body["messages"][-1]["content"]
        letter = lambda: self.rng.choice("ab")
        if found := re.search(r"The list has (\d+) objects", text):
            return json.dumps([{"pair": i + 1, "better": letter()} for i in range(int(found[1]))])
        if found := re.search(r"Now (\d+) pairs|The reader's (\d+) lines", text):
            return "\n".join(f"{i + 1}: {letter()}" for i in range(int(found[1] or found[2])))
        if "a_is_better" in text: return json.dumps({"difference": "some", "a_is_better": letter() == "a"})
        if "Verdict: (a)" in text: return f"Both are short.\nVerdict: ({letter()})"
        return f" ({letter()})" if text.endswith("Output") else f"Output ({letter()})"


class ByModel:
    "Answers by a language model, with what `transformers serve` leaves out: log-probabilities and functions."

    def __init__(self, model): self.model = model

    def __call__(self, body):
        import torch
        backbone, text = self.model.backbone, body["messages"][-1]["content"]
        if "tools" in body: return self.call(body, backbone, text)
        if not body.get("logprobs"): return self.model.sample([text], max_new_tokens=body["max_tokens"])["output"][0]
        with torch.inference_mode(), backbone.inference(self.model.adapter) as net:
            logits = net(torch.tensor([backbone.encode_prompt(text)])).logits[0, -1].float()
        top = logits.log_softmax(-1).topk(body["top_logprobs"])
        rows = [{"token": backbone.tokenizer.decode([i]), "logprob": p} for p, i in zip(*(x.tolist() for x in top))]
        whole = completion(rows[0]["token"], body, "length")
        whole["choices"][0]["logprobs"] = {"content": [rows[0] | {"top_logprobs": rows}]}
        return whole

    def call(self, body, backbone, text):
        "A call of the function, with the value that the model finds likeliest among those that are allowed."
        import torch

        from alpacafarm_nb.models.batches import pad_batch
        from alpacafarm_nb.models.backbone import sequence_logps
        function = body["tools"][0]["function"]
        (key, schema), = function["parameters"]["properties"].items()
        written = [json.dumps({key: value}) for value in schema["enum"]]
        prompt, said = backbone.encode_prompt(text), backbone.codec.encode_outputs(written, eos=False)
        with torch.inference_mode(), backbone.inference(self.model.adapter) as net:
            logps = sequence_logps(backbone, net, pad_batch([prompt] * len(said), said, backbone.codec.pad_id))
        call = {"id": "1", "type": "function", "function": {"name": function["name"],
                                                            "arguments": written[int(logps.argmax())]}}
        return completion("", body, "tool_calls", tool_calls=[call])


def transient(share, seed=0):
    "Faults in a share of the requests, of all kinds alike, whatever is asked."
    def choose(number, body):
        draw = int.from_bytes(hashlib.blake2b(f"{seed}-{number}".encode(), digest_size=8).digest(), "little")
        return FAULTS[draw % len(FAULTS)] if draw / 2 ** 64 < share else None
    return choose


class Server:
    "Answers chat completions by a function of the request."

    def __init__(self, answer=longer, latency=0., faults=None, slow=3., prices=(0., 0.), hidden=None):
        """`prices`: dollars per million tokens (read, written), which add up in `billed`; `hidden`: how many tokens of
        hidden reasoning a request takes, which usage tells and the limit of tokens does not bound."""
        self.answer, self.latency, self.faults, self.slow = answer, latency, faults, slow
        self.prices, self.hidden, self.billed = prices, hidden, 0.
        self.requests, self.under_way, self.most, self.kinds = 0, 0, 0, collections.Counter()
        self.asked = collections.Counter()
        self._ready = threading.Event()

    @property
    def url(self): return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def serve(self, port=0):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", port, limit=2 ** 24, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server: await self._end.wait()

    async def _connection(self, reader, writer):
        "Requests on one connection, which is kept open."
        try:
            while not self._end.is_set():
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.I)
                data = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith(b"GET"): reply = 200, {}, json.dumps(self.counts()).encode()
                else:
                    key = re.search(rb"authorization: *bearer (\S+)", head, re.I)
                    reply = await self._post(json.loads(data), key[1].decode() if key else "")
                if reply is None: break
                status, headers, payload = reply
                headers = {"Content-Type": "application/json", "Content-Length": len(payload)} | headers
                lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + payload)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError): pass
        finally: writer.close()

    def counts(self):
        return {"requests": self.requests, "under_way": self.under_way, "most": self.most, "kinds": dict(self.kinds),
                "repeated": sum(n - 1 for n in self.asked.values()), "different": len(self.asked),
                "billed": self.billed}

    async def _post(self, body, key):
        "The reply to a request: status, headers, body; None drops the connection."
        number, self.requests = self.requests, self.requests + 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.asked[hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=12).hexdigest()] += 1
        try:
            if self.latency: await asyncio.sleep(self.latency)
            fault = self.faults(number, body) if self.faults else None
            if fault: self.kinds[fault] += 1
            if asyncio.iscoroutinefunction(self.answer): said = await self.answer(body)
            else: said = self.answer(body)
            return await self._reply(fault, said, body, key)
        finally: self.under_way -= 1

    def bill(self, usage):
        "Charge for an answer, whether or not it arrives."
        counts = [usage.get(k) for k in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
        self.billed += sum(p * n for p, n in zip(self.prices, counts) if isinstance(n, int) and n > 0) / 1e6

    async def _reply(self, fault, said, body, key):
        whole = said if isinstance(said, dict) else completion(said, body)
        if self.hidden: whole["usage"]["completion_tokens"] += self.hidden(body)
        if fault not in FREE: self.bill(whole.get("usage"))
        dumped = json.dumps(whole).encode()
        error = lambda message, **more: json.dumps({"error": {"message": message, **more}}).encode()
        match fault:
            case None: return 200, {}, dumped
            case "429": return 429, {"Retry-After": "0.05"}, error("Rate limit reached", type="tokens")
            case "500": return 500, {}, error("The server had an error")
            case "401": return 401, {}, error(f"Incorrect API key provided: {key}.", code="invalid_api_key")
            case "500 with key": return 500, {}, error(f"Failed for Bearer {key}")
            case "400": return 400, {}, error("This request is refused")
            case "dropped": return None
            case "slow": await asyncio.sleep(self.slow); return 200, {}, dumped
            case "html": return 200, {"Content-Type": "text/html"}, b"<html><body>Bad gateway</body></html>"
            case "malformed": return 200, {}, dumped[:len(dumped) // 2]
            case "truncated": return 200, {}, json.dumps(completion(said[:len(said) // 2], body, "length")).encode()
            case "no choices": return 200, {}, json.dumps(whole | {"choices": []}).encode()
            case "gateway": return 504, {"Content-Type": "text/html"}, b"<html>Gateway time-out</html>"
            case "filtered": return 200, {}, json.dumps(completion("", body, "content_filter")).encode()
            case "too few":
                return 200, {}, json.dumps(completion("\n".join(said.split("\n")[:-1]) or "none", body)).encode()
        raise ValueError(fault)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()

    async def main():
        server = Server(longer, options.latency)
        task = asyncio.create_task(server.serve(options.port))
        while not server._ready.is_set(): await asyncio.sleep(.01)
        print(server.port, flush=True)
        await task

    asyncio.run(main())
