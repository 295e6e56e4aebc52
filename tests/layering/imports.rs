//! Who may import whom. It judges every path into a crate of ours, in tests too, and knows nothing of other crates.

use std::collections::BTreeSet;

use crate::source::Source;

/// Each module, what of ours it may import, and whether it is pure. An entry `module::part` allows that part only.
const MODULES: &[Module] = &[
    Module { name: "wire", may_import: &[], pure: true },
    Module { name: "fec", may_import: &["wire"], pure: true },
    Module { name: "plan", may_import: &["fec"], pure: true },
    Module { name: "tunnel", may_import: &["fec", "wire"], pure: true },
    Module { name: "flow", may_import: &["wire", "notify::message"], pure: true },
    Module { name: "protect", may_import: &["flow", "tunnel", "wire", "notify::message"], pure: true },
    Module { name: "notify", may_import: &[], pure: false },
    // One place knows where the fields of the kernel's `struct tcp_info` lie.
    Module { name: "io", may_import: &["notify::tcp_info"], pure: false },
    // What cannot be reached on a configured link is an error of the configuration.
    Module { name: "config", may_import: &["tunnel::keys", "tunnel::policy", "notify", "plan"], pure: false },
    // It shows statuses of others, whatever is in them.
    Module { name: "metrics", may_import: &["config", "io"], pure: false },
    Module {
        name: "appliance",
        may_import: &["tunnel", "fec", "wire", "io", "config", "flow", "protect", "notify", "plan", "metrics"],
        pure: false,
    },
    // A gate asks the appliance as any program would. Its sockets, signals and clock are those of `io`, mio and std; its
    // dialects are given bytes and say what to do with them.
    Module { name: "gate", may_import: &["notify", "config", "io", "metrics"], pure: false },
    // It judges what surrounds an appliance as a person would: from the system, and from what a running one tells.
    Module {
        name: "doctor",
        may_import: &["config", "io", "appliance::status", "appliance::host", "notify::message", "tunnel::keys"],
        pure: false,
    },
    Module { name: "bugreport", may_import: &["doctor", "config", "io", "tunnel::keys"], pure: false },
    // It knows a command line by its definition alone.
    Module { name: "manual", may_import: &[], pure: false },
    // The lab's programs wait for notifications as a user's would; its attacks forge them, and make sessions with keys of their
    // own. It counts what the code rebuilds and compares that with the formulas.
    Module {
        name: "lab",
        may_import: &[
            "config",
            "fec",
            "io",
            "manual",
            "wire",
            "tunnel::handshake",
            "tunnel::hello",
            "tunnel::keys",
            "tunnel::mac",
            "tunnel::seal",
            "tunnel::PeerId",
            "appliance::status",
            "notify::client",
            "notify::envelope",
            "notify::message",
            "notify::secret",
            "gate::status",
        ],
        pure: false,
    },
    // The commands that watch and wait are programs like any other that uses the notification library, and ask the kernel
    // what local sockets have sent.
    Module {
        name: "cli",
        may_import: &[
            "appliance",
            "bugreport",
            "config",
            "doctor",
            "gate",
            "manual",
            "plan",
            "tunnel::keys",
            "notify",
            "io::descriptors",
            "io::problem",
            "io::request_socket",
            "io::signal",
            "io::since",
            "io::status_socket",
            "io::journal",
            "io::log",
            "io::restriction",
            "io::sock_diag",
            "metrics::port",
        ],
        pure: false,
    },
    // The library shows the crate of the protocol as its module `notify`.
    Module { name: "lib", may_import: &["notify"], pure: false },
    Module { name: "main", may_import: &["cli"], pure: false },
    Module { name: "bin", may_import: &["lab"], pure: false },
];

/// A row of the table.
struct Module {
    name: &'static str,
    may_import: &'static [&'static str],
    pure: bool,
}

/// Whether the top-level module `name` is pure.
pub fn is_pure(name: &str) -> bool {
    MODULES.iter().any(|module| module.name == name && module.pure)
}

/// Reports each import that the table does not allow, once a file.
pub fn check(source: &Source, violations: &mut Vec<String>) {
    let (path, name) = (&source.path, source.top_module());
    let Some(module) = MODULES.iter().find(|module| module.name == name) else {
        violations.push(format!("{path}:1: module `{name}` is not in the table of this test; add it to `MODULES`"));
        return;
    };
    let mut seen = BTreeSet::new();
    for named in &source.paths {
        let names = named.in_our_crate().unwrap_or_default();
        let Some(first) = names.first() else { continue };
        let is_allowed = first == name || module.may_import.iter().any(|allowed| is_below(names, allowed));
        let import = names[..names.len().min(2)].join("::");
        if is_allowed || !seen.insert(import.clone()) {
            continue;
        }
        let may = match module.may_import {
            [] => "nothing of ours".to_owned(),
            some => some.join(", "),
        };
        violations.push(format!(
            "{path}:{}: `{name}` imports `{import}`, may import {may}; move the type down or pass a value in",
            named.line
        ));
    }
}

/// Whether the path is `module` or leads into it.
fn is_below(names: &[String], module: &str) -> bool {
    module.split("::").enumerate().all(|(at, part)| names.get(at).is_some_and(|name| name == part))
}
