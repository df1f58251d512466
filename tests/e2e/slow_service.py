"""A slow service: it sleeps before and after it creates something, and before it removes something, as set by /__slow.

GET /__state returns its data and the calls that have begun and ended. With a file and a port as arguments it stores
its data in the file, so that a kill loses nothing that it has confirmed.
"""

import json
import os
import sys
import threading
import time

from flask import Flask, jsonify, request
from werkzeug.serving import make_server

app = Flask(__name__)
state = {"instances": {}, "binds": {}, "units": {}, "begun": [], "ended": [], "calls": {}}
slow = {"before": 0, "after": 0, "removing": 0}
awake = threading.Event()
kept = sys.argv[1] if len(sys.argv) > 2 else None
lock = threading.Lock()


def keep():
    with lock:
        with open(kept + ".new", "w") as file:
            json.dump({part: dict(state[part]) for part in ("instances", "binds")}, file)
        os.replace(kept + ".new", kept)


def log(when):
    """Writes the time of each call to a log beside the data file."""
    if kept:
        with open(kept + ".log", "a") as file:
            file.write(f"{time.time():.2f} {when} {request.method} {request.path} {request.values.to_dict()}\n")


@app.before_request
def before():
    if not request.path.startswith("/__"):
        log("begun")
        state["begun"].append(request.method + " " + request.path)
        call = request.method + " " + request.path
        if call == "POST /resources":
            call += " " + request.form["name"]
        state["calls"][call] = state["calls"].get(call, 0) + 1
        if request.method == "POST":
            awake.wait(slow["before"])
        elif request.method == "DELETE":
            awake.wait(slow["removing"])


@app.after_request
def after(response):
    if not request.path.startswith("/__"):
        if kept and request.method != "GET":
            keep()
        log(f"ended {response.status_code}")
        state["ended"].append(request.method + " " + request.path)
        if request.method == "POST":
            time.sleep(slow["after"])
    return response


@app.get("/__state")
def show():
    return jsonify(state)


@app.post("/__forget")
def forget():
    state["calls"].clear()
    return ""


@app.post("/__slow")
def set_slow():
    slow.update(request.get_json())
    return ""


@app.post("/__wake")
def wake():
    """Wakes the calls that sleep before their work; later calls do not sleep before it."""
    awake.set()
    return ""


@app.get("/resources/plans")
def plans():
    return jsonify([])


@app.post("/resources")
def create():
    name = request.form["name"]
    if name in state["instances"]:
        return "already there", 409
    state["instances"][name] = request.form.get("description", "")
    return "", 201


@app.put("/resources/<name>")
def update(name):
    if name not in state["instances"]:
        return "no such instance", 404
    state["instances"][name] = request.form.get("description", "")
    return "", 200


@app.get("/resources/<name>/status")
def status(name):
    return ("", 204) if name in state["instances"] else ("no such instance", 404)


@app.delete("/resources/<name>")
def destroy(name):
    return ("", 200) if state["instances"].pop(name, None) is not None else ("no such instance", 404)


@app.post("/resources/<name>/bind-app")
def bind(name):
    state["binds"][name + " " + request.form["app-host"]] = True
    return jsonify({"STORE_URL": "store://" + name}), 201


@app.delete("/resources/<name>/bind-app")
def unbind(name):
    gone = state["binds"].pop(name + " " + request.form["app-host"], None)
    return ("", 200) if gone else ("not bound", 404)


@app.post("/resources/<name>/bind")
@app.delete("/resources/<name>/bind")
def units(name):
    unit = " ".join([name, request.form["app-host"], request.form["unit-host"]])
    if request.method == "POST":
        state["units"][unit] = True
        return "", 201
    return ("", 200) if state["units"].pop(unit, None) else ("not bound", 404)


if __name__ == "__main__":
    if kept and os.path.exists(kept):
        with open(kept) as file:
            state.update(json.load(file))
    server = make_server("127.0.0.1", int(sys.argv[2]) if kept else 0, app, threaded=True)
    print(server.server_port, flush=True)
    # The test holds the other end of standard input: when it exits, so does this process.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()
