// A service by the rules of 2014: each unit is bound on the instance's own path, by unit-host and app-host, and
// unbound by its host; no bind-app, no plans, no info. Not in Python, so that no behaviour of Flask is taken for
// the API. Rules for failing calls: see common.py.
"use strict";
const http = require("node:http");

const calls = [];
const state = { instances: {}, binds: {}, units: {} };
const rules = {};

function work(method, parts, form) {
  const [root, name, word, host, ...more] = parts;
  if (root !== "resources" || more.length > 0) return [404, "no such page"];
  if (method === "POST" && name === undefined) {
    if (form.get("name") in state.instances) return [409, "already there"];
    state.instances[form.get("name")] = form.get("plan") || "";
    return [201, ""];
  }
  if (name === undefined || (word !== undefined && word !== "hostname" && word !== "status"))
    return [404, "no such page"];
  const known = name in state.instances;
  if (method === "GET" && word === "status" && host === undefined)
    return known ? [204, ""] : [404, "no such instance"];
  if (method === "POST" && word === undefined) {
    if (!known) return [404, "no such instance"];
    if (!form.get("unit-host") || !form.get("app-host")) return [400, "unit-host and app-host are wanted"];
    const bound = (state.binds[name] ||= []);
    if (!bound.includes(form.get("unit-host"))) bound.push(form.get("unit-host"));
    return [201, JSON.stringify({ RULES: "2014", FOR: form.get("app-host") })];
  }
  if (method === "DELETE" && word === "hostname" && host !== undefined) {
    const bound = state.binds[name] || [];
    if (!bound.includes(host)) return [404, "not bound"];
    bound.splice(bound.indexOf(host), 1);
    return [200, ""];
  }
  if (method === "DELETE" && word === undefined) {
    if (!known) return [404, "no such instance"];
    delete state.instances[name];
    return [200, ""];
  }
  return [404, "no such page"];
}

function failing(method, path, form) {
  const subject = path.split("/")[2] || form.get("name") || "";
  const applies = (rule) =>
    rule && rule.mode && (rule.method || method) === method && path.endsWith(rule.path || "");
  return [subject, ""].map((name) => rules[name]).find(applies);
}

function failure(rule, response) {
  const say = (status, text) => {
    response.writeHead(status);
    response.end(text);
  };
  if (rule.mode === "refuse") return say(403, "you must be joking\x07");
  if (rule.mode === "412") return say(412, "still warming up");
  if (rule.mode === "500") return say(500, "no space left");
  if (rule.mode === "answer") return say(rule.status || 200, rule.body);
  if (rule.mode === "garbage") return say(200, "<html>not json");
  if (rule.mode === "cut") {
    response.writeHead(200, { "Content-Length": 100 });
    response.write("{");
    return setTimeout(() => response.destroy(), 20);
  }
  return rule.hung.push(() => say(500, "late"));
}

function control(path, body, response) {
  if (path === "/__fail") {
    const rule = { hung: [], ...JSON.parse(body) };
    const old = rules[rule.name || ""];
    rules[rule.name || ""] = rule;
    if (old) old.hung.forEach((answer) => answer());
  }
  response.end(JSON.stringify(path === "/__log" ? calls : state));
}

http
  .createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks).toString();
      const url = new URL(request.url, "http://here");
      if (url.pathname.startsWith("/__")) return control(url.pathname, body, response);
      const form = new URLSearchParams(body);
      const lists = (of) => Object.fromEntries([...new Set(of.keys())].map((key) => [key, of.getAll(key)]));
      const [user, password] = Buffer.from((request.headers.authorization || "").replace(/^Basic /, ""), "base64")
        .toString()
        .split(":");
      const call = `${request.method} ${decodeURIComponent(url.pathname)}`;
      calls.push({ call, form: lists(form), query: lists(url.searchParams), user, password, headers: request.headers });
      const rule = failing(request.method, decodeURIComponent(url.pathname), form);
      if (rule && !rule.do) return failure(rule, response);
      const [status, text] = work(request.method, url.pathname.split("/").slice(1).map(decodeURIComponent), form);
      if (rule) return failure(rule, response);
      response.writeHead(status);
      return response.end(text);
    });
  })
  .listen(0, "127.0.0.1", function () {
    console.log(this.address().port);
  });

// The test holds the other end of standard input: when it dies, so do we.
process.stdin.resume().on("end", () => process.exit());
