//! Reserved names of variables, which a service may not set, by the program that reads them.
//!
//! A service is untrusted code. A variable that a loader, an interpreter, a shell, a build tool or git reads
//! lets the service run code in the app or see the app's traffic; a variable of the platform would mislead
//! the app. Users may set all of these on their own apps, except those that only the platform sets
//! (`RESERVED_NAMES`).
//!
//! Names are compared as their readers do: most are case-sensitive, a few are not.

/// The names that one program reads.
struct VarReader {
    what: &'static str,
    /// Exact names.
    names: &'static [&'static str],
    /// Prefixes of names.
    prefixes: &'static [&'static str],
    /// The reader ignores case.
    case_insensitive: bool,
}

const VAR_READERS: &[VarReader] = &[
    VarReader {
        what: "the platform",
        names: &["PORT"],
        prefixes: &["TSURU_", "TANCHO_"],
        case_insensitive: true,
    },
    VarReader {
        what: "the dynamic loader or the C library",
        names: &[
            "GCONV_PATH",
            "GETCONF_DIR",
            "GLIBC_TUNABLES",
            "HOSTALIASES",
            "LIBPATH",
            "LOCALDOMAIN",
            "LOCPATH",
            "NLSPATH",
            "RES_OPTIONS",
            "SHLIB_PATH",
            "TZ",
            "TZDIR",
        ],
        prefixes: &["LD_", "DYLD_", "MALLOC_", "RESOLV_"],
        case_insensitive: false,
    },
    VarReader {
        what: "the shell",
        names: &[
            "BASHOPTS",
            "CDPATH",
            "ENV",
            "FPATH",
            "GLOBIGNORE",
            "HISTFILE",
            "IFS",
            "INPUTRC",
            "PATH",
            "PROMPT_COMMAND",
            "PS0",
            "PS1",
            "PS2",
            "PS3",
            "PS4",
            "SHELLOPTS",
            "ZDOTDIR",
        ],
        prefixes: &["BASH_"],
        case_insensitive: false,
    },
    VarReader {
        what: "every program of the session",
        names: &[
            "HOME",
            "LANG",
            "LANGUAGE",
            "LOGNAME",
            "OLDPWD",
            "PWD",
            "SHELL",
            "TEMP",
            "TEMPDIR",
            "TERM",
            "TERMCAP",
            "TERMINFO",
            "TERMINFO_DIRS",
            "TMP",
            "TMPDIR",
            "USER",
        ],
        prefixes: &["LC_", "XDG_"],
        case_insensitive: false,
    },
    VarReader {
        what: "programs that start an editor or a pager",
        names: &[
            "BROWSER",
            "EDITOR",
            "LESS",
            "LESSCLOSE",
            "LESSKEY",
            "LESSOPEN",
            "MANPAGER",
            "MANPATH",
            "PAGER",
            "PSQLRC",
            "PSQL_EDITOR",
            "PSQL_PAGER",
            "VISUAL",
        ],
        prefixes: &["SUDO_"],
        case_insensitive: false,
    },
    VarReader {
        what: "git, ssh or another tool that fetches code",
        names: &[
            "CVS_RSH",
            "GNUPGHOME",
            "HGRCPATH",
            "HGPLAIN",
            "NETRC",
            "RSYNC_RSH",
            "SVN_SSH",
            "WGETRC",
        ],
        prefixes: &["GIT_", "GPG_", "SSH_"],
        case_insensitive: false,
    },
    VarReader {
        what: "Python",
        names: &[
            "DJANGO_SETTINGS_MODULE",
            "FLASK_APP",
            "GUNICORN_CMD_ARGS",
            "VIRTUAL_ENV",
        ],
        prefixes: &[
            "CONDA_", "PDM_", "PIPENV_", "PIP_", "POETRY_", "PYTEST_", "PYTHON", "UVICORN_", "UV_",
        ],
        case_insensitive: false,
    },
    VarReader {
        what: "Node.js",
        names: &[
            "ELECTRON_RUN_AS_NODE",
            "NODE_CHANNEL_FD",
            "NODE_COMPILE_CACHE",
            "NODE_DEBUG",
            "NODE_ENV",
            "NODE_EXTRA_CA_CERTS",
            "NODE_ICU_DATA",
            "NODE_OPTIONS",
            "NODE_PATH",
            "NODE_PRESERVE_SYMLINKS",
            "NODE_PRESERVE_SYMLINKS_MAIN",
            "NODE_REDIRECT_WARNINGS",
            "NODE_REPL_EXTERNAL_MODULE",
            "NODE_REPL_HISTORY",
            "NODE_TLS_REJECT_UNAUTHORIZED",
            "NODE_USE_ENV_PROXY",
            "NODE_V8_COVERAGE",
        ],
        prefixes: &["BUN_", "COREPACK_", "DENO_", "PNPM_", "TS_NODE_", "YARN_"],
        case_insensitive: false,
    },
    VarReader {
        what: "npm",
        names: &[],
        prefixes: &["NPM_"],
        case_insensitive: true,
    },
    VarReader {
        what: "Perl",
        names: &["PERLLIB", "PERL_MB_OPT", "PERL_MM_OPT", "PERL_UNICODE"],
        prefixes: &["PERL5"],
        case_insensitive: false,
    },
    VarReader {
        what: "Ruby",
        names: &[],
        prefixes: &["BUNDLER_", "BUNDLE_", "GEM_", "RUBY"],
        case_insensitive: false,
    },
    VarReader {
        what: "the Java virtual machine",
        names: &[
            "ANT_OPTS",
            "CLASSPATH",
            "GRADLE_OPTS",
            "JAVA_HOME",
            "JAVA_OPTS",
            "JAVA_TOOL_OPTIONS",
            "JDK_JAVAC_OPTIONS",
            "JDK_JAVA_OPTIONS",
            "MAVEN_ARGS",
            "MAVEN_OPTS",
            "SBT_OPTS",
            "_JAVA_OPTIONS",
        ],
        prefixes: &["CATALINA_", "JVM_"],
        case_insensitive: false,
    },
    VarReader {
        what: "PHP",
        names: &["PHPRC", "PHP_INI_SCAN_DIR"],
        prefixes: &["COMPOSER_"],
        case_insensitive: false,
    },
    VarReader {
        what: "Go or a C compiler",
        names: &[
            "AR",
            "CC",
            "CFLAGS",
            "COMPILER_PATH",
            "CPATH",
            "CPLUS_INCLUDE_PATH",
            "CPPFLAGS",
            "CXX",
            "CXXFLAGS",
            "C_INCLUDE_PATH",
            "GCC_EXEC_PREFIX",
            "GO111MODULE",
            "GOARCH",
            "GOAUTH",
            "GOBIN",
            "GOCACHE",
            "GOCOVERDIR",
            "GODEBUG",
            "GOENV",
            "GOEXPERIMENT",
            "GOFLAGS",
            "GOINSECURE",
            "GOMODCACHE",
            "GONOPROXY",
            "GONOSUMDB",
            "GOOS",
            "GOPATH",
            "GOPRIVATE",
            "GOPROXY",
            "GOROOT",
            "GOSUMDB",
            "GOTMPDIR",
            "GOTOOLCHAIN",
            "GOTOOLDIR",
            "GOVCS",
            "GOWORK",
            "LDFLAGS",
            "LIBRARY_PATH",
            "MAKE",
            "MAKEFILES",
            "MAKEFLAGS",
        ],
        prefixes: &["CGO_", "PKG_CONFIG"],
        case_insensitive: false,
    },
    VarReader {
        what: "Rust",
        names: &["RUSTC", "RUSTC_WRAPPER", "RUSTDOCFLAGS", "RUSTFLAGS"],
        prefixes: &["CARGO_", "RUSTUP_"],
        case_insensitive: false,
    },
    VarReader {
        what: "another interpreter",
        names: &["CAML_LD_LIBRARY_PATH", "OCAMLRUNPARAM", "TCLLIBPATH"],
        prefixes: &[
            "ASPNETCORE_",
            "COMPlus_",
            "CORECLR_",
            "COR_",
            "DOTNET_",
            "ELIXIR_",
            "ERL_",
            "GUILE_",
            "JULIA_",
            "LUA_",
            "MIX_",
            "R_",
        ],
        case_insensitive: false,
    },
    VarReader {
        what: "a TLS library",
        names: &[
            "REQUESTS_CA_BUNDLE",
            "SSLKEYLOGFILE",
            "SSL_CERT_DIR",
            "SSL_CERT_FILE",
        ],
        prefixes: &["GNUTLS_", "OPENSSL_"],
        case_insensitive: false,
    },
    VarReader {
        what: "a client library that runs the programs or trusts the files it names",
        names: &[
            "AWS_CA_BUNDLE",
            "AWS_CONFIG_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
            "CURL_CA_BUNDLE",
            "CURL_HOME",
            "KUBECONFIG",
            "LIBMYSQL_PLUGINS",
            "LIBMYSQL_PLUGIN_DIR",
            "MYSQL_HOME",
            "PGSERVICEFILE",
            "PGSYSCONFDIR",
        ],
        prefixes: &[],
        case_insensitive: false,
    },
    VarReader {
        what: "every HTTP client, as its proxy",
        names: &[
            "ALL_PROXY",
            "FTP_PROXY",
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "NO_PROXY",
            "RSYNC_PROXY",
            "SOCKS_PROXY",
        ],
        prefixes: &[],
        case_insensitive: true,
    },
];

/// Returns the reader of a reserved variable; `None` if a service may set it.
pub fn find_reader(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    VAR_READERS.iter().find_map(|reader| {
        let name = if reader.case_insensitive {
            upper.as_str()
        } else {
            name
        };
        let is_reserved = reader.names.contains(&name) || reader.prefixes.iter().any(|p| name.starts_with(p));
        is_reserved.then_some(reader.what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_loading_variable_names_are_reserved_in_all_matching_cases() {
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "DYLD_INSERT_LIBRARIES",
            "GCONV_PATH",
            "MALLOC_CHECK_",
            "PATH",
            "IFS",
            "ENV",
            "BASH_ENV",
            "BASH_FUNC_ls",
            "SHELLOPTS",
            "PS4",
            "PROMPT_COMMAND",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "NODE_OPTIONS",
            "NODE_PATH",
            "NPM_CONFIG_REGISTRY",
            "npm_config_registry",
            "Npm_Config_Registry",
            "PERL5OPT",
            "PERLLIB",
            "RUBYOPT",
            "RUBYLIB",
            "GEM_HOME",
            "BUNDLE_GEMFILE",
            "JAVA_TOOL_OPTIONS",
            "_JAVA_OPTIONS",
            "JDK_JAVA_OPTIONS",
            "CLASSPATH",
            "GOFLAGS",
            "GOPROXY",
            "PHPRC",
            "PHP_INI_SCAN_DIR",
            "LUA_INIT",
            "LUA_INIT_5_4",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "SSH_ASKPASS",
            "EDITOR",
            "PAGER",
            "LESSOPEN",
            "PIP_INDEX_URL",
            "UV_INDEX",
            "POETRY_HOME",
            "http_proxy",
            "HTTPS_PROXY",
            "All_Proxy",
            "OPENSSL_CONF",
            "SSL_CERT_FILE",
            "PORT",
            "port",
            "HOME",
            "TMPDIR",
            "USER",
            "SHELL",
            "TSURU_APP_TOKEN",
            "TANCHO_X",
            "tsuru_services",
            "AWS_CONFIG_FILE",
            "R_PROFILE",
            "ERL_FLAGS",
            "DOTNET_STARTUP_HOOKS",
        ] {
            assert!(find_reader(name).is_some(), "{name}");
        }
    }

    #[test]
    fn ordinary_service_variable_names_are_not_reserved() {
        for name in [
            "DATABASE_URL",
            "MYSQL_HOST",
            "MYSQL_PORT",
            "PGHOST",
            "PGPASSWORD",
            "REDIS_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_REGION",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "RABBITMQ_USER",
            "SENTRY_DSN",
            "HOST",
            "DB_PORT",
            "path",
            "home",
            "NODE_1_HOST",
            "MIXPANEL_TOKEN",
            "RABBITMQ-HOST",
            "GITHUB_TOKEN",
            "SSHD_PORT",
            "PERLA",
            "OTEL_X",
            "MEMCACHED_HTTP_PROXY",
            "ENVIRONMENT",
            "CORE_URL",
            "REDIS_LD_PATH",
        ] {
            assert_eq!(find_reader(name), None, "{name}");
        }
    }

    #[test]
    fn case_insensitive_entries_are_written_in_upper_case() {
        for reader in VAR_READERS.iter().filter(|reader| reader.case_insensitive) {
            for name in reader.names.iter().chain(reader.prefixes) {
                assert_eq!(*name, name.to_ascii_uppercase(), "{}", reader.what);
            }
        }
    }
}
