require("fs").writeFileSync("made", `${require("local-tool")} ${process.env.VITE_URL}`);
