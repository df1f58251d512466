//! seccomp: system calls that apps and builds may not make, whatever user they run as.
//!
//! A deny-list, because apps may be anything. A refused call returns EPERM, as it would without privileges;
//! no process is killed. Refused are calls that administer the machine, create namespaces (which expose most
//! of the kernel to their root), trace processes, load code into the kernel, or have repeatedly been used for
//! exploits without being needed by ordinary programs. Programs for the processor's other architecture (32
//! bit) do not run: their call numbers differ.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::SandboxPolicy;

type SyscallRules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refused with any arguments.
const DENIED_CALLS: &[libc::c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces; `clone` is filtered below.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    // Code and settings of the kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_vhangup,
    // Frequently exploited. Runtimes that prefer io_uring fall back.
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    #[cfg(not(target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

/// Flags that `clone` refuses.
const NAMESPACE_FLAGS: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// TIOCSTI and TIOCLINUX push bytes into a terminal, which the next user of the terminal would read.
const TERMINAL_IOCTLS: &[libc::c_int] = &[0x5412, 0x541c];

/// The socket families that an app needs: Unix, internet, and netlink for queries about the network.
const ALLOWED_FAMILIES: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The protocols of internet sockets that an app needs. Landlock restricts only TCP ports, and other stream
/// protocols (MPTCP, SCTP, SMC) share them.
const ALLOWED_PROTOCOLS: &[libc::c_int] = &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];

/// The bits of `socket`'s second argument that are the type; the others are flags.
const TYPE_MASK: u64 = 0xf;

/// The System V and POSIX calls that create memory, semaphores and queues by number or by name.
const IPC_CALLS: &[libc::c_long] = &[
    libc::SYS_shmget,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
];

/// The call numbers of the x32 ABI, which gives access to all calls on kernels that support it.
#[cfg(target_arch = "x86_64")]
const X32_CALLS: &[i64] = &[
    // ptrace, kexec_load, process_vm_readv and _writev, setsockopt and ioctl have numbers of their own.
    521,
    528,
    539,
    540,
    541,
    514,
    // Calls whose arguments are filtered below: x32 may not make them at all.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_prlimit64,
];
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;

/// Returns whether the kernel supports seccomp and the calls of this processor are known.
pub(super) fn is_available() -> bool {
    std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() && target_arch().is_some()
}

fn target_arch() -> Option<TargetArch> {
    std::env::consts::ARCH.try_into().ok()
}

/// Installs the filters for the calling thread and the programs that it executes.
pub(super) fn apply_filters(policy: &SandboxPolicy) -> Result<(), Error> {
    let Some(arch) = target_arch().filter(|_| is_available()) else {
        return Ok(());
    };
    for (rules, errno) in build_rule_sets(policy).map_err(Error::Backend)? {
        seccompiler::apply_filter(&compile_filter(rules, errno, arch)?)?;
    }
    Ok(())
}

/// Refuses all sockets but Unix sockets. Call it after `apply_filters`.
pub(super) fn block_network() -> Result<(), Error> {
    let Some(arch) = target_arch().filter(|_| is_available()) else {
        return Ok(());
    };
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let others = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, unix)
        .and_then(|is_other| SeccompRule::new(vec![is_other]))
        .map_err(Error::Backend)?;
    let sockets: SyscallRules = [(syscall_number(libc::SYS_socket), vec![others])].into();
    seccompiler::apply_filter(&compile_filter(sockets, libc::EACCES, arch)?)
}

fn compile_filter(rules: SyscallRules, errno: libc::c_int, arch: TargetArch) -> Result<BpfProgram, Error> {
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)
        .and_then(BpfProgram::try_from)
        .map_err(Error::Backend)
}

type FilterResult<T> = Result<T, BackendError>;

/// Returns the refused calls, grouped by the error that they return.
fn build_rule_sets(policy: &SandboxPolicy) -> FilterResult<Vec<(SyscallRules, libc::c_int)>> {
    // The flags of `clone3` are in memory, which a filter cannot read. ENOSYS makes libraries fall back as on
    // older kernels.
    let unknown: SyscallRules = [(syscall_number(libc::SYS_clone3), Vec::new())].into();
    let families = [
        (syscall_number(libc::SYS_socket), family_rules()?),
        (
            syscall_number(libc::SYS_socketpair),
            vec![match_all([arg_differs(0, libc::AF_UNIX)?])?],
        ),
    ];
    let protocols = [(syscall_number(libc::SYS_socket), protocol_rules()?)];
    // An upper-layer protocol (TCP_ULP) turns a TCP socket into another kind; refuse it as if its module did
    // not exist.
    let on_top = match_all([arg_equals(1, libc::IPPROTO_TCP)?, arg_equals(2, libc::TCP_ULP)?])?;
    let on_top = [(syscall_number(libc::SYS_setsockopt), vec![on_top])];
    Ok(vec![
        (always_denied(policy)?, libc::EPERM),
        (unknown, libc::ENOSYS),
        (families.into(), libc::EAFNOSUPPORT),
        (protocols.into(), libc::EPROTONOSUPPORT),
        (on_top.into(), libc::ENOENT),
    ])
}

fn always_denied(policy: &SandboxPolicy) -> FilterResult<SyscallRules> {
    let ipc = IPC_CALLS.iter().filter(|_| !policy.namespaces);
    let calls: Vec<i64> = DENIED_CALLS
        .iter()
        .chain(ipc)
        .map(|call| syscall_number(*call))
        .collect();
    let mut never: SyscallRules = calls.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    for call in calls.into_iter().chain(X32_CALLS.iter().copied()) {
        never.insert(call | X32_BIT, Vec::new());
    }
    let mut clones = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let bit = u64::from(flag.unsigned_abs());
        let has = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bit), bit)?;
        clones.push(match_all([has])?);
    }
    never.insert(syscall_number(libc::SYS_clone), clones);
    let mut tricks = Vec::new();
    for trick in TERMINAL_IOCTLS {
        tricks.push(match_all([arg_equals(1, *trick)?])?);
    }
    never.insert(syscall_number(libc::SYS_ioctl), tricks);
    if policy.shared_user {
        // Processes with the same user could change the limits of each other, and of Tancho.
        let sets = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
        never.insert(
            syscall_number(libc::SYS_prlimit64),
            vec![match_all([arg_differs(0, 0)?, sets])?],
        );
    }
    Ok(never)
}

/// Matches sockets whose family is not allowed, and netlink sockets other than route queries.
fn family_rules() -> FilterResult<Vec<SeccompRule>> {
    let others = ALLOWED_FAMILIES.iter().map(|family| arg_differs(0, *family));
    Ok(vec![
        SeccompRule::new(others.collect::<FilterResult<_>>()?)?,
        match_all([
            arg_equals(0, libc::AF_NETLINK)?,
            arg_differs(2, libc::NETLINK_ROUTE)?,
        ])?,
    ])
}

/// Matches internet sockets that are neither TCP nor UDP.
fn protocol_rules() -> FilterResult<Vec<SeccompRule>> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut others = vec![arg_equals(0, family)?];
        for protocol in ALLOWED_PROTOCOLS {
            others.push(arg_differs(2, *protocol)?);
        }
        rules.push(SeccompRule::new(others)?);
        // Other types select another protocol by default. A masked comparison supports only equality.
        for kind in (0..=TYPE_MASK).filter(|kind| {
            ![libc::SOCK_STREAM, libc::SOCK_DGRAM]
                .iter()
                .any(|good| u64::from(good.unsigned_abs()) == *kind)
        }) {
            let is_kind = SeccompCondition::new(
                1,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::MaskedEq(TYPE_MASK),
                kind,
            )?;
            rules.push(match_all([arg_equals(0, family)?, is_kind])?);
        }
    }
    Ok(rules)
}

fn match_all<const N: usize>(conditions: [SeccompCondition; N]) -> FilterResult<SeccompRule> {
    SeccompRule::new(conditions.into())
}

/// Compares the lower half of an argument; the kernel reads no more of an `int`.
fn arg_equals(argument: u8, value: libc::c_int) -> FilterResult<SeccompCondition> {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        value.unsigned_abs().into(),
    )
}

fn arg_differs(argument: u8, value: libc::c_int) -> FilterResult<SeccompCondition> {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        value.unsigned_abs().into(),
    )
}

#[expect(clippy::useless_conversion, reason = "a long is not 64 bits everywhere")]
fn syscall_number(call: libc::c_long) -> i64 {
    i64::from(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strictest() -> SandboxPolicy {
        SandboxPolicy {
            shared_user: true,
            ..SandboxPolicy::default()
        }
    }

    #[test]
    fn rule_sets_compile_for_every_supported_processor() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64, TargetArch::riscv64] {
            for policy in [SandboxPolicy::default(), strictest()] {
                for (rules, errno) in build_rule_sets(&policy).unwrap() {
                    assert!(!compile_filter(rules, errno, arch).unwrap().is_empty());
                }
            }
        }
    }

    #[test]
    fn ordinary_calls_are_in_no_rule_set() {
        let lists = build_rule_sets(&strictest()).unwrap();
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_mmap,
            libc::SYS_openat,
        ] {
            assert!(
                lists
                    .iter()
                    .all(|(rules, _)| !rules.contains_key(&syscall_number(call)))
            );
        }
    }
}
