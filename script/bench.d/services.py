"""Services for the benchmark: services.py serve COUNT starts COUNT services, each on its own port, and prints the ports in one
line; the last one accepts requests without responding between a GET of /hang and one of /heal. services.py call URL TOKEN
CALLERS requests a URL until it is stopped, with this number of concurrent callers and a short pause after each response.
"""

import asyncio
import sys
import urllib.parse


healed = asyncio.Event()
healed.set()


async def answer(reader, writer, is_moody=False):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(int(length[0].split(b":")[1]))
            if is_moody:
                if head.startswith(b"GET /hang "):
                    healed.clear()
                elif head.startswith(b"GET /heal "):
                    healed.set()
                else:
                    await healed.wait()
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def moody(reader, writer):
    await answer(reader, writer, True)


async def serve(count):
    ports = []
    for number in range(count):
        server = await asyncio.start_server(moody if number == count - 1 else answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await asyncio.Event().wait()


async def ask(url, token):
    while True:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        request = f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: bearer {token}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await reader.read()
        writer.close()
        await asyncio.sleep(0.5)


async def call(url, token, callers):
    await asyncio.gather(*(ask(urllib.parse.urlsplit(url), token) for _ in range(callers)))


if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(call(sys.argv[2], sys.argv[3], int(sys.argv[4])))
