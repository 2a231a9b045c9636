"""Publishes with commlib-py's Publisher, once it is told to.

    publisher.py URL TOPIC COUNT JSON

Publishes JSON (an object) COUNT times on TOPIC, each with a field `seq` counting from 0, then prints
{"event": "published", "count": …} and waits for the end of standard input, so that nothing is cut off on its way.
"""

import argparse
import json

import peer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("count", type=int)
    parser.add_argument("data", type=json.loads)
    args = parser.parse_args()
    peer.exit_with_stdin()
    node = peer.node(args.url)
    publisher = node.create_publisher(topic=args.topic)
    node.run()
    peer.ready()
    for seq in range(args.count):
        publisher.publish({**args.data, "seq": seq})
    peer.emit("published", count=args.count)
    peer.wait_for_end()


if __name__ == "__main__":
    main()
