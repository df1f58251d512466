const http = require("http");
const ms = require("ms");
const answer = () => `${ms("1m")} ${require("fs").readFileSync("made", "utf8")} ${process.env.NODE_ENV}`;

http.createServer((request, response) => response.end(answer())).listen(process.env.PORT, "127.0.0.1");
