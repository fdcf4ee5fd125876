#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# tcp.py receive PORT | send HOST PORT FILE — one plain TCP transfer of a file, the least that bulk.sh compares with. `send` prints the
# seconds until the receiver said that it has all.
import socket
import sys
import time

if sys.argv[1] == "receive":
    listener = socket.create_server(("0.0.0.0", int(sys.argv[2])))
    peer, _ = listener.accept()
    room = bytearray(1 << 20)
    size = int.from_bytes(peer.recv(8, socket.MSG_WAITALL), "big")
    while size:
        n = peer.recv_into(room)
        if not n:
            sys.exit("the sender went away")
        size -= n
    peer.sendall(b".")
else:
    with open(sys.argv[4], "rb") as file:
        end = time.monotonic() + 10
        while True:
            try:
                peer = socket.create_connection((sys.argv[2], int(sys.argv[3])))
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
        began = time.monotonic()
        file.seek(0, 2)
        peer.sendall(file.tell().to_bytes(8, "big"))
        file.seek(0)
        peer.sendfile(file)
        peer.recv(1)
        print(f"{time.monotonic() - began:.2f}")
