"""Print who is where, from `manypose live --udp 127.0.0.1:9001`. Needs Python only."""

import json
import socket
import sys


def main() -> None:
    """Listen until Ctrl-C; the first argument may be another port, the second a frame count."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9001
    left = int(sys.argv[2]) if len(sys.argv) > 2 else -1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", port))
        while left:
            frame = json.loads(receiver.recv(65535))
            people = ", ".join(
                "{} at {:.2f} {:.2f} {:.2f} m".format(p["id"], *p["root"])
                for p in frame["persons"]
                if None not in p["root"]
            )
            print(f"{frame['t']:8.3f} s  {people or 'nobody'}", flush=True)
            left -= 1


if __name__ == "__main__":
    main()
