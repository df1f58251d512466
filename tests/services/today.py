"""A service by today's documentation: plans, bind-app, bind for units, PUT, status."""

import json

from flask import request

from common import app, run, state


@app.get("/resources/plans")
def plans():
    return json.dumps([{"name": "small", "description": "small instance"}, {"name": "big", "description": "big"}])


@app.post("/resources")
def add_instance():
    name = request.form.get("name")
    if name in state["instances"]:
        return "already there", 409
    state["instances"][name] = request.form.get("plan") or ""
    return "", 201


@app.put("/resources/<name>")
def update_instance(name):
    state["instances"][name] = request.form.get("plan") or ""
    return "", 200


@app.get("/resources/<name>")
def info(name):
    return json.dumps([{"label": "Address", "value": name + ".test:3306"}])


@app.get("/resources/<name>/status")
def status(name):
    return ("", 204) if name in state["instances"] else ("no such instance", 404)


@app.delete("/resources/<name>")
def remove_instance(name):
    return ("", 200) if state["instances"].pop(name, None) is not None else ("no such instance", 404)


@app.post("/resources/<name>/bind-app")
def bind_app(name):
    host = request.form.get("app-host")
    state["binds"].setdefault(name, []).append(host)
    return json.dumps({"DB_HOST": "db.test", "DB_PORT": 3306, "DB_PASSWORD": "canary-" + name}), 201


@app.delete("/resources/<name>/bind-app")
def unbind_app(name):
    host = request.form.get("app-host")
    hosts = state["binds"].get(name, [])
    if host not in hosts:
        return "not bound", 404
    state["binds"][name] = [h for h in hosts if h != host]
    return "", 200


@app.post("/resources/<name>/bind")
def bind_unit(name):
    state["units"].setdefault(name, []).append(request.form.get("unit-host"))
    return "", 201


@app.delete("/resources/<name>/bind")
def unbind_unit(name):
    host = request.form.get("unit-host")
    state["units"][name] = [h for h in state["units"].get(name, []) if h != host]
    return "", 200


if __name__ == "__main__":
    run()
