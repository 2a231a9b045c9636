"""Subscribes with commlib-py and prints what it hears; ends after COUNT messages.

    subscriber.py URL PATTERN COUNT [--typed]

Prints {"event": "message", "topic": …, "data": …} for each. `topic` is null where commlib-py does not tell it: with a
plain Subscriber. A pattern (with `*`) uses its PSubscriber on Redis; on RabbitMQ its PSubscriber of 0.13.2 refuses every
`*`, and a plain Subscriber, which takes one as the broker does (one level), is used instead.

`--typed` decodes into a model with the required field `range`, as a typed commlib-py program would.
"""

import argparse
import threading

import peer
from commlib.msg import PubSubMessage


class Reading(PubSubMessage):
    model_config = {"extra": "allow"}

    range: float


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("pattern")
    parser.add_argument("count", type=int)
    parser.add_argument("--typed", action="store_true")
    args = parser.parse_args()
    peer.exit_with_stdin()

    done, lock, heard = threading.Event(), threading.Lock(), 0

    def on_message(message, topic=None):
        nonlocal heard
        data = message.model_dump() if args.typed else message
        with lock:
            heard += 1
            if heard > args.count:
                return
            peer.emit("message", topic=topic, data=data)
            if heard == args.count:
                done.set()

    node = peer.node(args.url)
    by_pattern = "*" in args.pattern and args.url.startswith("redis:")
    create = node.create_psubscriber if by_pattern else node.create_subscriber
    subscriber = create(topic=args.pattern, msg_type=Reading if args.typed else None, on_message=on_message)
    node.run()
    peer.wait_consuming(subscriber)
    peer.ready()
    done.wait()


if __name__ == "__main__":
    main()
