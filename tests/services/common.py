"""What the services of the tests share: a log of the calls received, and a way to be told to fail.

GET /__log answers the calls so far, GET /__state what the service holds, POST /__fail takes
{"mode": refuse | 412 | 500 | hang | garbage | cut | "", "method": only this verb, "path": only paths that
end so, "do": whether the work is done before the failure}.
"""

import json
import os
import sys
import threading
import time

from flask import Flask, Response, g, jsonify, request
from werkzeug.serving import make_server

app = Flask(__name__)
calls = []
state = {"instances": {}, "binds": {}, "units": {}}
fail = {}
released = threading.Event()
lock = threading.Lock()


@app.before_request
def record():
    if request.path.startswith("/__"):
        return None
    auth = request.authorization
    with lock:
        calls.append(
            {
                "call": request.method + " " + request.path,
                "form": request.form.to_dict(flat=False),
                "query": request.args.to_dict(flat=False),
                "user": auth.username if auth else None,
                "password": auth.password if auth else None,
                "headers": {k.lower(): v for k, v in request.headers},
            }
        )
    if not fails() or fail.get("do"):
        return None
    return failure()


@app.after_request
def fail_after(response):
    if request.path.startswith("/__") or not fails() or not fail.get("do"):
        return response
    return failure()


def fails():
    if not fail.get("mode"):
        return False
    if fail.get("method") and fail["method"] != request.method:
        return False
    return request.path.endswith(fail.get("path", ""))


def failure():
    mode = fail["mode"]
    if mode == "refuse":
        return Response("you must be joking\x07", status=403)
    if mode == "412":
        return Response("still warming up", status=412)
    if mode == "500":
        return Response("no space left", status=500)
    if mode == "garbage":
        return Response("<html>not json", status=200)
    if mode == "cut":
        return Response(iter([b"{"]), status=200, headers={"Content-Length": "100"})
    released.wait(30)
    return Response("late", status=500)


@app.get("/__log")
def log():
    return jsonify(calls)


@app.get("/__state")
def show():
    return jsonify(state)


@app.post("/__fail")
def set_fail():
    global released
    fail.clear()
    fail.update(request.get_json())
    released.set()
    released = threading.Event()
    return ""


def run():
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    # The test holds the other end of standard input: when it dies, so do we.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()
