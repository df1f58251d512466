const http = require("http");
const ms = require("ms");
const answer = () => String(ms("1m"));

http.createServer((request, response) => response.end(answer())).listen(process.env.PORT, "127.0.0.1");
