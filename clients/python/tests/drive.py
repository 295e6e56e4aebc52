"""Waits as a program does, and says what it learns: the end-to-end tests of the appliance run it and compare.

Commands on standard input, one a line:
  watch SOURCE DESTINATION STEP   waits for STEP bytes of this connection, then for twice as many, and so on
  unwatch                         ends that
  contact                         answers when there is contact
  status OFFSET                   whether so many bytes of the connection are protected now
  dropped                         how many datagrams failed a check
On standard output, each with the time of the kernel's monotonic clock in nanoseconds at the end:
  protected OFFSET | unwatched | contact RUN | status yes|no REASON | dropped COUNT
"""

from __future__ import annotations

import argparse
import select
import time
from typing import Optional

from onwire_notify import Client, FlowKey, read_key
from onwire_notify.endpoint import split_host

STEP = 0.01


def say(text: str) -> None:
    """One line."""
    print(text, time.clock_gettime_ns(time.CLOCK_MONOTONIC), flush=True)


class Driver:
    """One client, and the connection that it waits for."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.key: Optional[FlowKey] = None
        self.step = 0
        self.offset = 0
        self.wants_contact = False

    def obey(self, command: str, *words: str) -> None:
        """One command."""
        if command == "watch":
            self.key = FlowKey.tcp(split_host(words[0]), split_host(words[1]))
            self.step = self.offset = int(words[2])
            self.client.watch(self.key)
        elif command == "unwatch" and self.key is not None:
            self.client.unwatch(self.key)
            self.key = None
            say("unwatched")
        elif command == "contact":
            self.wants_contact = True
        elif command == "dropped":
            say(f"dropped {self.client.dropped}")
        elif command == "status" and self.key is not None:
            status = self.client.status(self.key, int(words[0]))
            say(f"status {'yes' if status.is_protected else 'no'} {status.reason}")
        else:
            raise ValueError(f"{command} {words}")

    def work(self) -> None:
        """Waits a little."""
        if self.key is not None and self.client.wait(self.key, self.offset, STEP):
            say(f"protected {self.offset}")
            self.offset += self.step
        elif self.key is None:
            self.client.wait_contact(STEP)
            time.sleep(STEP)
        if self.wants_contact and self.client.has_contact():
            self.wants_contact = False
            say(f"contact {self.client.run}")


def main() -> None:
    """Until the end of the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--notify", required=True)
    parser.add_argument("--key", required=True)
    options = parser.parse_args()
    with Client(options.notify, read_key(options.key)) as client:
        driver = Driver(client)
        # Unbuffered: a second line must not wait where `select` does not see it.
        commands = open(0, "rb", buffering=0)
        say("ready")
        while True:
            ready, _, _ = select.select([commands], [], [], 0)
            if ready:
                line = commands.readline()
                if not line:
                    break
                driver.obey(*line.decode().split())
            driver.work()


if __name__ == "__main__":
    main()
