"""The demo's app: one page with the notes of the notebook it is bound to, if any."""

import html
import json
import os
import urllib.error
import urllib.parse
import urllib.request

PORT = os.environ["PORT"]
GREETING = os.environ.get("GREETING", "Hello")
NOTES_URL = os.environ.get("NOTES_URL")
NOTES_TOKEN = os.environ.get("NOTES_TOKEN", "")

with open("build.txt", encoding="utf-8") as file:
    BUILT = file.read()

print(f"board: unit on port {PORT} begins, {'bound' if NOTES_URL else 'not bound'}", flush=True)

PAGE = """<!doctype html>
<title>Board</title>
<h1>{greeting}, this is the board</h1>
<p>Built {built}. This is the unit on port {port}.</p>
{notes}
"""
FORM = '<form method="post"><input name="text"> <button>Add a note</button></form>'


def ask(form=None):
    """The notes; with a form, after adding one."""
    body = urllib.parse.urlencode(form).encode() if form else None
    request = urllib.request.Request(NOTES_URL, body, {"Authorization": f"Bearer {NOTES_TOKEN}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def notes_part():
    if not NOTES_URL:
        return "<p>Not bound: there is no NOTES_URL.</p>"
    try:
        notes = ask()
    except (urllib.error.URLError, OSError) as error:
        return f"<p>Bound to {html.escape(NOTES_URL)}, which fails: {html.escape(str(error))}</p>"
    items = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<p>Bound to {html.escape(NOTES_URL)}, which holds:</p>\n<ul>\n{items}\n</ul>\n{FORM}"


def add(environ):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    fields = urllib.parse.parse_qs(environ["wsgi.input"].read(min(length, 10_000)).decode())
    ask({"text": fields.get("text", [""])[0]})
    print("board: a note was added", flush=True)


def app(environ, start_response):
    def answer(status, body, kind="text/html; charset=utf-8", *more):
        start_response(status, [("Content-Type", kind), *more])
        return [body.encode()]

    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "GET", "/healthz":
            return answer("200 OK", "ok\n", "text/plain")
        case "GET", "/":
            page = PAGE.format(greeting=html.escape(GREETING), built=html.escape(BUILT), port=PORT, notes=notes_part())
            return answer("200 OK", page)
        case "POST", "/":
            if not NOTES_URL:
                return answer("409 Conflict", "There is no notebook to write to.\n", "text/plain")
            add(environ)
            return answer("303 See Other", "", "text/plain", ("Location", "/"))
    return answer("404 Not Found", "There is nothing here.\n", "text/plain")
