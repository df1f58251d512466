"""A service of 2014: one bind for each unit on the instance's own path, no bind-app."""

from flask import jsonify, request

from common import app, run, state


@app.post("/resources")
def add_instance():
    state["instances"][request.form["name"]] = ""
    return "", 201


@app.post("/resources/<name>")
def bind(name):
    state["binds"].setdefault(name, []).append(request.form["unit-host"])
    return jsonify(OLD="yes", APP=request.form["app-host"]), 201


@app.delete("/resources/<name>/hostname/<host>")
def unbind(name, host):
    hosts = state["binds"].get(name, [])
    if host not in hosts:
        return "not bound", 404
    state["binds"][name] = [h for h in hosts if h != host]
    return "", 200


@app.delete("/resources/<name>")
def remove_instance(name):
    if state["instances"].pop(name, None) is None:
        return "no such instance", 404
    return "", 200


if __name__ == "__main__":
    run()
