// install.js <build-dir> <cache-dir>: installs the modules of an app and runs its build script.
//
// The lock file selects the package manager: npm-shrinkwrap.json or package-lock.json npm, pnpm-lock.yaml
// pnpm, yarn.lock yarn, bun.lock or bun.lockb bun. With several lock files, the field packageManager decides,
// else this order. Managers other than npm are installed with npm, in the version that packageManager names,
// else in the newest that reads the lock file, and are kept in the app's cache.
//
// With an npm lock file, node_modules is cached under a hash of all inputs. Not so if the package has install
// scripts of its own or modules that are in the app: these must run, or may change.
"use strict";
const { spawnSync } = require("child_process");
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");

const [build, cache] = process.argv.slice(2).map((folder) => path.resolve(folder));
const LOCKS = {
    npm: ["npm-shrinkwrap.json", "package-lock.json"],
    pnpm: ["pnpm-lock.yaml"],
    yarn: ["yarn.lock"],
    bun: ["bun.lock", "bun.lockb"],
};
const INSTALL_SCRIPTS = ["preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"];
const env = {
    ...process.env,
    npm_config_cache: path.join(cache, "npm"),
    npm_config_update_notifier: "false",
    npm_config_fund: "false",
    npm_config_audit: "false",
    npm_config_progress: "false",
};
delete env.TANCHO_NODE_OPTIONS;

const say = (text) => console.log(` ---> ${text}`);
const fail = (text) => {
    console.error(` !     ${text}`);
    process.exit(1);
};
const exists = (file) => fs.existsSync(file);
const read = (file) => fs.readFileSync(file, "utf8").replace(/^\uFEFF/, "");
const readMaybe = (file) => (exists(file) ? read(file) : "");

// Runs a command; exits with its status if it fails, since its output names the cause.
function run(argv, more = {}, cwd = build) {
    const ended = spawnSync(argv[0], argv.slice(1), { cwd, stdio: "inherit", env: { ...env, ...more } });
    if (ended.error) fail(`${argv[0]} cannot be run: ${ended.error.message}`);
    if (ended.status !== 0) process.exit(ended.status === null ? 137 : ended.status);
}

function readPackage() {
    let content;
    try {
        content = JSON.parse(read("package.json"));
    } catch (error) {
        fail(`package.json is not valid JSON: ${error.message}`);
    }
    if (content === null || typeof content !== "object" || Array.isArray(content)) {
        fail("package.json must hold an object, as in { \"name\": \"app\" }");
    }
    return content;
}

// Chooses the package manager: its name, its lock file if there is one, the requested version.
function choose(pkg) {
    const [, declared, version] = /^(npm|pnpm|yarn|bun)@([\w.-]+)/.exec(pkg.packageManager || "") || [];
    const there = Object.entries(LOCKS).flatMap(([name, files]) =>
        files.filter(exists).map((file) => ({ name, file })));
    if (pkg.packageManager && !declared) say(`Not read: packageManager (${pkg.packageManager}); known are npm, pnpm, yarn, bun`);
    const lock = there.find((one) => one.name === declared) || there[0];
    // Without a lock file of its own, the declared manager would install other versions than the locked ones.
    const name = lock ? lock.name : declared || "npm";
    const left = there.filter((one) => one !== lock).map((one) => one.file);
    if (left.length) say(`Not read: ${left.join(", ")} (${lock.file} decides)`);
    if (declared && declared !== name) say(`Not used: ${declared}, which packageManager names, has no lock file here`);
    return { name, lock: lock && lock.file, version: declared === name ? version : undefined };
}

// The npm version range of a package manager that reads the lock file.
function rangeFor(chosen) {
    if (chosen.version) return chosen.version;
    const text = chosen.lock && chosen.lock !== "bun.lockb" ? read(chosen.lock) : "";
    if (chosen.name === "pnpm") {
        const format = Number((/^lockfileVersion: *'?(\d+)/m.exec(text) || [])[1] || 9);
        return format <= 5 ? "7" : format <= 8 ? "8" : "10";
    }
    if (chosen.name === "yarn") {
        if (!isBerry(chosen)) return "1";
        const format = Number((/^ +version: *(\d+)/m.exec(text) || [])[1] || 8);
        return format <= 4 ? "2" : format <= 6 ? "3" : "4";
    }
    return "1";
}

// Yarn of version 2 or later.
function isBerry(chosen) {
    if (chosen.version) return !/^[01]\./.test(chosen.version) && chosen.version !== "1";
    return chosen.lock ? /^__metadata:/m.test(read(chosen.lock)) : exists(".yarnrc.yml");
}

// Returns the folder of a package manager in the cache; installs it if it is missing.
function fetchTool(chosen) {
    const range = rangeFor(chosen);
    const name = chosen.name === "yarn" && isBerry(chosen) ? "@yarnpkg/cli-dist" : chosen.name;
    const tools = path.join(cache, "tools");
    const home = path.join(tools, `${chosen.name}-${range}`);
    if (!exists(home)) {
        say(`Fetching ${chosen.name} ${range}`);
        for (const old of fs.existsSync(tools) ? fs.readdirSync(tools) : []) {
            if (old.startsWith(`${chosen.name}-`)) fs.rmSync(path.join(tools, old), { recursive: true, force: true });
        }
        const fresh = path.join(tools, `${chosen.name}-new`);
        fs.mkdirSync(fresh, { recursive: true });
        run(["npm", "install", "--global", "--loglevel=error", "--prefix", fresh, `${name}@${range}`], {}, fresh);
        fs.renameSync(fresh, home);
    }
    return home;
}

// Prepares a package manager other than npm: the command, and the folder of its programs.
function prepareTool(chosen) {
    const bundled = chosen.name === "yarn" && /^yarnPath: *"?([^"\n]+)"?/m.exec(readMaybe(".yarnrc.yml"));
    if (bundled && exists(bundled[1])) {
        const bin = path.join(env.TMPDIR || "/tmp", "yarn-bin");
        fs.mkdirSync(bin, { recursive: true });
        fs.writeFileSync(path.join(bin, "yarn"), `#!/bin/sh\nexec node '${path.resolve(bundled[1])}' "$@"\n`, { mode: 0o755 });
        return { bin, bundled: bundled[1] };
    }
    const home = fetchTool(chosen);
    return { bin: path.join(home, "bin"), home };
}

// Copies the package manager into the version if the app calls it at run time.
function keepTool(chosen, tool, pkg) {
    const callers = [JSON.stringify(pkg.scripts || {})];
    for (const file of ["Procfile", "tsuru.yaml", "tsuru.yml", "app.yaml", "app.yml"]) callers.push(readMaybe(file));
    const named = new RegExp(`(^|[^\\w.-])(${chosen.name}|${chosen.name === "pnpm" ? "pnpx" : `${chosen.name}x`})([^\\w.-]|$)`, "m");
    if (!named.test(callers.join("\n")) && !exists(".pnp.cjs")) return;
    const bin = path.join(build, ".tancho", "bin");
    const place = (name, target) => {
        fs.rmSync(path.join(bin, name), { force: true });
        fs.symlinkSync(target, path.join(bin, name));
    };
    if (tool.bundled) {
        fs.writeFileSync(path.join(bin, "yarn"), `#!/bin/sh\nexec node "$(dirname -- "$(realpath -- "$0")")/../../${tool.bundled}" "$@"\n`, { mode: 0o755 });
    } else if (chosen.name === "bun") {
        fs.copyFileSync(fs.realpathSync(path.join(tool.bin, "bun")), path.join(bin, "bun"));
        place("bunx", "bun");
    } else {
        fs.cpSync(path.join(tool.home, "lib"), path.join(build, ".tancho", "lib"), { recursive: true, verbatimSymlinks: true });
        for (const name of fs.readdirSync(tool.bin)) place(name, path.join("..", fs.readlinkSync(path.join(tool.bin, name)).replace(/^\.\.\//, "")));
    }
}

// Compares the Node version that the app asks for with the installed one.
function checkEngine(pkg) {
    const [from, wanted] = pkg.engines && typeof pkg.engines.node === "string"
        ? ["package.json", pkg.engines.node]
        : [".nvmrc", ".node-version"].filter(exists).map((file) => [file, read(file).trim()])[0] || [];
    if (!wanted || /^(lts|node|stable|system)/.test(wanted)) return;
    try {
        const which = spawnSync("sh", ["-c", "command -v npm"], { encoding: "utf8", env }).stdout.trim();
        const semver = require("module").createRequire(fs.realpathSync(which))("semver");
        if (semver.validRange(wanted) && !semver.satisfies(process.version, wanted)) {
            say(`${from} asks for Node ${wanted}; this server has ${process.version}, which is used`);
        }
    } catch {
        say(`${from} asks for Node ${wanted}; this server has ${process.version}`);
    }
}

// The steps of each package manager: install, run the build script, remove build dependencies.
const MANAGERS = {
    npm({ lock }, pkg, hasBuild) {
        const dev = hasBuild ? "--include=dev" : "--omit=dev";
        const key = npmKey(lock, pkg, dev);
        const kept = path.join(cache, `modules-${key}`);
        if (key && exists(kept)) {
            say("The lock file is unchanged: taking the modules from the cache");
            fs.rmSync("node_modules", { recursive: true, force: true });
            run(["cp", "-a", kept, "node_modules"]);
        } else {
            if (lock) say(`Installing the modules of ${lock}`);
            else say("Installing the modules (no lock file: versions may change from deploy to deploy)");
            run(lock ? ["npm", "ci", dev] : ["npm", "install", dev, "--no-package-lock"]);
            if (key) keepModules(kept);
        }
        return {
            build: ["npm", "run", "build"],
            prune: () => run(["npm", "prune", "--omit=dev", ...(lock ? [] : ["--no-package-lock"])]),
        };
    },
    pnpm({ lock }, pkg, hasBuild) {
        const options = [`--config.store-dir=${path.join(cache, "pnpm-store")}`, "--config.package-import-method=copy"];
        const frozen = lock ? "--frozen-lockfile" : "--no-frozen-lockfile";
        const unattended = { CI: "true", npm_config_manage_package_manager_versions: "false" };
        run(["pnpm", "install", frozen, ...options, ...(hasBuild ? [] : ["--prod"])], unattended);
        return {
            build: ["pnpm", "run", "build"],
            prune: () => run(["pnpm", "install", "--prod", "--ignore-scripts", "--prefer-offline", frozen, ...options], unattended),
        };
    },
    yarn(chosen, pkg, hasBuild) {
        return isBerry(chosen) ? yarnBerry(chosen) : yarnClassic(chosen, hasBuild);
    },
    bun({ lock }, pkg, hasBuild) {
        const options = [...(lock ? ["--frozen-lockfile"] : ["--no-save"]), "--backend=copyfile", "--no-progress"];
        const folder = { BUN_INSTALL_CACHE_DIR: path.join(cache, "bun") };
        run(["bun", "install", ...options, ...(hasBuild ? [] : ["--production"])], folder);
        return {
            build: ["bun", "run", "build"],
            prune: () => {
                fs.rmSync("node_modules", { recursive: true, force: true });
                run(["bun", "install", ...options, "--production"], folder);
            },
        };
    },
};

function yarnClassic({ lock }, hasBuild) {
    const options = ["--non-interactive", ...(lock ? ["--frozen-lockfile"] : ["--no-lockfile"])];
    const folder = { YARN_CACHE_FOLDER: path.join(cache, "yarn") };
    run(["yarn", "install", ...options, `--production=${!hasBuild}`], folder);
    return {
        build: ["yarn", "run", "build"],
        prune: () => run(["yarn", "install", ...options, "--production=true", "--ignore-scripts", "--prefer-offline"], folder),
    };
}

function yarnBerry(chosen) {
    // With Plug'n'Play the version runs from yarn's cache, which must therefore be in the version.
    const inModules = /^nodeLinker: *["']?(node-modules|pnpm)/m.test(readMaybe(".yarnrc.yml"));
    const folder = {
        YARN_ENABLE_TELEMETRY: "0",
        YARN_ENABLE_GLOBAL_CACHE: String(inModules),
        YARN_GLOBAL_FOLDER: path.join(cache, "yarn-berry"),
    };
    run(["yarn", "install", chosen.lock ? "--immutable" : "--no-immutable"], folder);
    return {
        build: ["yarn", "run", "build"],
        always: true,
        prune: () => {
            const all = readPackage().workspaces ? ["--all"] : [];
            const ended = spawnSync("yarn", ["workspaces", "focus", "--production", ...all], { cwd: build, stdio: "inherit", env: { ...env, ...folder } });
            if (ended.status !== 0) say("Build dependencies stay in the version: this version of yarn cannot remove them");
        },
    };
}

function npmKey(lock, pkg, dev) {
    const scripts = pkg.scripts || {};
    if (!lock || INSTALL_SCRIPTS.some((name) => scripts[name])) return "";
    const texts = [read("package.json"), read(lock), readMaybe(".npmrc")];
    if (/"link": *true|"file:/.test(texts.join("\n"))) return "";
    const tuning = Object.entries(process.env).filter(([name]) => /^npm_config_/i.test(name)).sort();
    const parts = JSON.stringify([process.version, dev, texts, tuning]);
    return crypto.createHash("sha256").update(parts).digest("hex").slice(0, 32);
}

// Keeps one set of modules, the newest.
function keepModules(kept) {
    for (const old of fs.readdirSync(cache).filter((name) => name.startsWith("modules-"))) {
        fs.rmSync(path.join(cache, old), { recursive: true, force: true });
    }
    fs.mkdirSync("node_modules", { recursive: true });
    run(["cp", "-a", "node_modules", path.join(cache, "modules-new")]);
    fs.renameSync(path.join(cache, "modules-new"), kept);
}

function main() {
    fs.mkdirSync(cache, { recursive: true });
    process.chdir(build);
    if (!exists("package.json")) fail("there is no package.json at the root of the app");
    const pkg = readPackage();
    const hasBuild = Boolean(pkg.scripts && pkg.scripts.build);
    const npm = spawnSync("npm", ["--version"], { encoding: "utf8", env, cwd: cache });
    say(`Using Node ${process.version} and npm ${(npm.stdout || "").trim()}`);
    checkEngine(pkg);
    const chosen = choose(pkg);
    const tool = chosen.name === "npm" ? null : prepareTool(chosen);
    if (tool) {
        env.PATH = `${tool.bin}:${env.PATH}`;
        const version = spawnSync(chosen.name, ["--version"], { encoding: "utf8", env, cwd: build });
        say(`Using ${chosen.name} ${(version.stdout || "").trim()}`);
        if (chosen.lock) say(`Installing the modules of ${chosen.lock}`);
        else say("Installing the modules (no lock file: versions may change from deploy to deploy)");
    }
    const manager = MANAGERS[chosen.name](chosen, pkg, hasBuild);
    if (hasBuild) {
        say("Running the build script");
        const options = process.env.TANCHO_NODE_OPTIONS;
        run(manager.build, options ? { NODE_OPTIONS: options } : {});
    }
    if (hasBuild || manager.always) manager.prune();
    fs.mkdirSync(".tancho/bin", { recursive: true });
    const programs = "node_modules/.bin";
    for (const name of exists(programs) ? fs.readdirSync(programs) : []) {
        if (exists(path.join(programs, name))) fs.symlinkSync(`../../${programs}/${name}`, `.tancho/bin/${name}`);
    }
    if (tool) keepTool(chosen, tool, pkg);
}

main();
