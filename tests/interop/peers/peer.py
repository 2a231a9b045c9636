"""What the interoperability peers have in common.

A peer is a small program around real commlib-py nodes. It prints the line `ready` once it can be talked to, then one
JSON object per line for every event, and it ends when its standard input closes, so that it never outlives the test
that started it. Diagnostics go to standard error.
"""

import json
import logging
import os
import stat
import sys
import threading
import time
from urllib.parse import unquote, urlsplit

# commlib-py logs through rich, which writes to standard output: that belongs to the protocol of the peer.
os.environ.setdefault("COMMLIB_LOG_LEVEL", "WARNING")

import commlib.utils  # noqa: E402,F401  (installs its log handler, replaced below)
from commlib.node import Node  # noqa: E402

logging.getLogger().handlers = [logging.StreamHandler(sys.stderr)]

# How long a peer waits for a broker to know about it before it gives up.
READY_SECONDS = 20.0

_print_lock = threading.Lock()


def emit(event, **fields):
    """Prints one event as a line of JSON."""
    with _print_lock:
        print(json.dumps({"event": event, **fields}), flush=True)


def ready():
    """Tells the test that the peer can be talked to."""
    with _print_lock:
        print("ready", flush=True)


def exit_with_stdin():
    """Ends the process, without ceremony, when standard input closes. `/dev/null` says that somebody else ends it."""
    stdin, null = os.fstat(0), os.stat(os.devnull)
    if stat.S_ISCHR(stdin.st_mode) and stdin.st_rdev == null.st_rdev:
        return

    def watch():
        # The descriptor and not `sys.stdin`: a daemon thread inside a buffered read aborts the interpreter at its end.
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="stdin").start()


def wait_for_end():
    """Blocks until standard input closes."""
    threading.Event().wait()


def connection_params(url):
    """Connection parameters of commlib-py for `redis://` and `amqp://` URLs."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port
    if parts.scheme == "redis":
        from commlib.transports.redis import ConnectionParameters

        return ConnectionParameters(
            host=host,
            port=port or 6379,
            db=int(parts.path.strip("/") or 0),
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )
    if parts.scheme == "amqp":
        from commlib.transports.amqp import ConnectionParameters

        return ConnectionParameters(
            host=host,
            port=port or 5672,
            vhost=unquote(parts.path[1:]) or "/",
            username=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            reconnect_attempts=1,
        )
    raise SystemExit(f"peer: the scheme of {url!r} is neither redis nor amqp")


def node(url):
    """A commlib-py node without the heartbeat, which would be noise on the topics under test."""
    return Node(connection_params=connection_params(url), heartbeats=False)


def wait_until(condition, what):
    """Polls `condition` until it holds; ends the peer with a message when it takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.01)
    raise SystemExit(f"peer: no {what} after {READY_SECONDS} s")


def wait_consuming(endpoint):
    """Waits until the broker delivers to `endpoint`: `run()` of commlib-py returns when it is connected, earlier."""
    transport = endpoint._transport
    if hasattr(transport, "_redis"):
        if hasattr(endpoint, "_subscriber_thread"):
            wait_until(lambda: _subscribed_on_redis(transport), "subscription on Redis")
        # A Redis RPC service needs no wait: requests stay in the list until it takes them.
    else:
        wait_until(lambda: transport.channel and transport.channel.consumer_tags, "consumer on RabbitMQ")


def _subscribed_on_redis(transport):
    connection = getattr(transport._rsub, "connection", None)
    sock = getattr(connection, "_sock", None)
    if sock is None:
        return False
    host, port = sock.getsockname()[:2]
    clients = transport._redis.client_list()
    return any(c["addr"] == f"{host}:{port}" and int(c["psub"]) > 0 for c in clients)
