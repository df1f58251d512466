"""A service of 2012: trailing slashes, bind by hostname, nothing else; paths without the slash are not redirected."""

from flask import jsonify, request

from common import app, run, state

app.url_map.strict_slashes = True
app.url_map.redirect_defaults = False


@app.before_request
def no_redirects():
    if not request.path.startswith("/__") and not request.path.endswith("/"):
        return "no such page", 404
    return None


@app.post("/resources/")
def add_instance():
    state["instances"][request.form["name"]] = ""
    return "", 201


@app.post("/resources/<name>/")
def bind(name):
    state["binds"].setdefault(name, []).append(request.form["hostname"])
    return jsonify(ANCIENT="yes"), 201


@app.delete("/resources/<name>/hostname/<host>/")
def unbind(name, host):
    hosts = state["binds"].get(name, [])
    if host not in hosts:
        return "not bound", 404
    state["binds"][name] = [h for h in hosts if h != host]
    return "", 204


@app.delete("/resources/<name>/")
def remove_instance(name):
    if state["instances"].pop(name, None) is None:
        return "no such instance", 404
    return "", 204


if __name__ == "__main__":
    run()
