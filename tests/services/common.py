"""Shared code of the test services: a log of the calls received, and rules for failing calls.

GET /__log returns the calls so far, GET /__state the data of the service, POST /__fail takes
{"mode": refuse | 412 | 500 | hang | garbage | cut | answer (with "status" and "body") | "", "name": only calls for this instance, "method": only
this verb, "path": only paths with this suffix, "do": whether the work is done before the failure}. There is one
such rule for each name, and one without; a new one replaces the old.
"""

import json
import os
import sys
import threading
import time

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

app = Flask(__name__)
calls = []
state = {"instances": {}, "binds": {}, "units": {}}
rules = {}
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
    rule, released = failing()
    if not rule or rule.get("do"):
        return None
    return failure(rule, released)


@app.after_request
def fail_after(response):
    rule, released = (None, None) if request.path.startswith("/__") else failing()
    if not rule or not rule.get("do"):
        return response
    return failure(rule, released)


def subject():
    """Returns the instance that a call is for."""
    parts = request.path.split("/")
    return parts[2] if len(parts) > 2 and parts[2] else request.form.get("name", "")


def failing():
    for name in (subject(), ""):
        rule, released = rules.get(name, ({}, None))
        wanted = rule.get("mode") and rule.get("method", request.method) == request.method
        if wanted and request.path.endswith(rule.get("path", "")):
            return rule, released
    return None, None


def failure(rule, released):
    mode = rule["mode"]
    if mode == "refuse":
        return Response("you must be joking\x07", status=403)
    if mode == "412":
        return Response("still warming up", status=412)
    if mode == "500":
        return Response("no space left", status=500)
    if mode == "garbage":
        return Response("<html>not json", status=200)
    if mode == "answer":
        return Response(rule["body"], status=rule.get("status", 200))
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
    rule = request.get_json()
    _, released = rules.get(rule.get("name", ""), (None, threading.Event()))
    rules[rule.get("name", "")] = (rule, threading.Event())
    released.set()
    return ""


def run():
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    # The test holds the other end of standard input: when it exits, so does this process.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()
