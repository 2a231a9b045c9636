"""The Python peers of the bench: `peer.py serve|drive SYSTEM --broker URL`, as `benches/protocol` says.

commlib-py: a thread and an RPC client per outstanding call, since a client has one call at a time; heartbeats off, no
compression. FastStream: typed handlers, uvloop, a pool of connections that is large enough for all calls.
"""

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from urllib.parse import unquote, urlsplit

os.environ.setdefault("COMMLIB_LOG_LEVEL", "ERROR")

PATIENCE = 15.0


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def orders():
    """The orders on standard input, until it ends."""
    for line in sys.stdin:
        yield json.loads(line)


class Tally:
    """What came of a phase."""

    def __init__(self, phase):
        self.phase = phase
        self.state = "warming"
        self.lock = threading.Lock()
        self.latencies, self.errors, self.misdelivered, self.error = [], 0, 0, None

    def took(self, seconds, right):
        with self.lock:
            if not right:
                self.misdelivered += 1
            elif self.state == "measuring":
                self.latencies.append(seconds)

    def failed(self, error):
        with self.lock:
            self.errors += 1
            self.error = self.error or f"{type(error).__name__}: {error}"

    def outcome(self, seconds):
        with self.lock:
            values = sorted(self.latencies)
            at = lambda q: values[min(len(values) - 1, int(len(values) * q))] * 1e6 if values else 0.0  # noqa: E731
            return {
                "count": len(values),
                "errors": self.errors,
                "misdelivered": self.misdelivered,
                "seconds": seconds,
                "p50": at(0.5),
                "p99": at(0.99),
                "p999": at(0.999),
                "error": self.error,
            }


def argument(number, count):
    """No two calls in flight have the same."""
    return (number << 32) + count


def text(phase, number, count):
    return f"{argument(number, count):016x}".ljust(phase["body"], "x")


# --- commlib-py ---------------------------------------------------------------------------------------------


def commlib_node(url):
    import logging

    from commlib.node import Node

    logging.getLogger().handlers = [logging.StreamHandler(sys.stderr)]
    parts = urlsplit(url)
    if parts.scheme == "redis":
        from commlib.transports.redis import ConnectionParameters

        params = ConnectionParameters(host=parts.hostname, port=parts.port)
    else:
        from commlib.transports.amqp import ConnectionParameters

        params = ConnectionParameters(
            host=parts.hostname,
            port=parts.port,
            vhost=unquote(parts.path[1:]) or "/",
            username=parts.username or "guest",
            password=parts.password or "guest",
            reconnect_attempts=1,
        )
    return Node(connection_params=params, heartbeats=False)


def commlib_serve(url):
    node = commlib_node(url)
    # Kept: a service that nobody holds is collected.
    services = [
        node.create_rpc(rpc_name="bench.py.add", on_request=lambda data: {"c": data["a"] + data["b"]}),
        node.create_rpc(rpc_name="bench.py.echo", on_request=lambda data: {"text": data["text"]}),
    ]
    node.run()
    time.sleep(1.0)
    say("ready")
    for _ in sys.stdin:
        pass
    del services
    os._exit(0)


def commlib_drive(url):
    say("ready")
    for phase in orders():
        tally = Tally(phase)
        threads = [
            threading.Thread(target=commlib_work, args=(url, tally, number), daemon=True)
            for number in range(phase["in_flight"])
        ]
        for thread in threads:
            thread.start()
        time.sleep(phase["warmup"] + 0.5 + 0.02 * phase["in_flight"])
        say("start")
        tally.state = "measuring"
        started = time.monotonic()
        time.sleep(phase["seconds"])
        tally.state = "over"
        outcome = tally.outcome(time.monotonic() - started)
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        outcome.update(errors=tally.errors, misdelivered=tally.misdelivered, error=tally.error)
        say(json.dumps(outcome))
    os._exit(0)


def commlib_work(url, tally, number):
    phase = tally.phase
    node = commlib_node(url)
    method = "add" if phase["body"] == 0 else "echo"
    client = node.create_rpc_client(rpc_name=f"bench.py.{method}")
    node.run()
    count = 0
    while tally.state != "over":
        count += 1
        value = argument(number, count)
        data = {"a": value, "b": value} if phase["body"] == 0 else {"text": text(phase, number, count)}
        started = time.monotonic()
        try:
            # It reports a timeout by returning nothing.
            reply = client.call(data, timeout=2.0)
            if reply is None:
                raise TimeoutError("no reply within 2 s")
            right = reply["c"] == 2 * value if phase["body"] == 0 else reply["text"] == data["text"]
            tally.took(time.monotonic() - started, right)
        except Exception as error:
            tally.failed(error)
    node.stop()


# --- FastStream ---------------------------------------------------------------------------------------------


def faststream_broker(url):
    if urlsplit(url).scheme == "redis":
        from faststream.redis import RedisBroker

        # Its default pool raises an error at 64 calls in flight.
        return RedisBroker(url, max_connections=1000, logger=None)
    from faststream.rabbit import RabbitBroker

    return RabbitBroker(url, logger=None)


async def lines():
    """The orders on standard input, without blocking the loop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def faststream_serve(url):
    from pydantic import BaseModel

    class Add(BaseModel):
        a: int
        b: int

    class Sum(BaseModel):
        c: int

    class Text(BaseModel):
        text: str

    broker = faststream_broker(url)

    @broker.subscriber("bench.fs.add")
    async def add(message: Add) -> Sum:
        return Sum(c=message.a + message.b)

    @broker.subscriber("bench.fs.echo")
    async def echo(message: Text) -> Text:
        return message

    async with broker:
        await broker.start()
        say("ready")
        async for _ in lines():
            pass
    os._exit(0)


async def faststream_drive(url):
    async with faststream_broker(url) as broker:
        say("ready")
        async for phase in lines():
            tally = Tally(phase)
            tasks = [asyncio.create_task(faststream_work(broker, tally, n)) for n in range(phase["in_flight"])]
            await asyncio.sleep(phase["warmup"])
            say("start")
            tally.state = "measuring"
            started = time.monotonic()
            await asyncio.sleep(phase["seconds"])
            tally.state = "over"
            outcome = tally.outcome(time.monotonic() - started)
            _, late = await asyncio.wait(tasks, timeout=PATIENCE)
            for task in late:
                task.cancel()
                tally.failed(TimeoutError("a call was never answered"))
            outcome.update(errors=tally.errors, misdelivered=tally.misdelivered, error=tally.error)
            say(json.dumps(outcome))
    os._exit(0)


async def faststream_work(broker, tally, number):
    phase = tally.phase
    address = "bench.fs.add" if phase["body"] == 0 else "bench.fs.echo"
    count = 0
    while tally.state != "over":
        count += 1
        value = argument(number, count)
        data = {"a": value, "b": value} if phase["body"] == 0 else {"text": text(phase, number, count)}
        started = time.monotonic()
        try:
            reply = json.loads((await broker.request(data, address, timeout=5.0)).body)
            right = reply["c"] == 2 * value if phase["body"] == 0 else reply["text"] == data["text"]
            tally.took(time.monotonic() - started, right)
        except Exception as error:
            tally.failed(error)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "drive"])
    parser.add_argument("system")
    parser.add_argument("--broker", default="")
    args = parser.parse_args()
    if args.system.startswith("commlib-py."):
        (commlib_serve if args.role == "serve" else commlib_drive)(args.broker)
    else:
        import uvloop

        uvloop.run((faststream_serve if args.role == "serve" else faststream_drive)(args.broker))


if __name__ == "__main__":
    main()
