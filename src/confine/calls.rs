//! seccomp: system calls that are refused to apps and builds, whoever they run as.
//!
//! A deny-list, because apps may be anything: a call that is refused answers "not permitted", as it would
//! without privileges, and nothing is killed for it. What is refused is what administers the machine, makes
//! name spaces (which open most of the kernel to whoever is root inside), traces processes, loads code into
//! the kernel, or has been the way into it again and again without an ordinary program needing it. Programs
//! of another architecture of the same processor (32 bit) do not run: their calls have other numbers.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refused whatever the arguments.
const NEVER: &[libc::c_long] = &[
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
    // Name spaces; `clone` is looked at below.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
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
    // Ways in of the past. Runtimes that would like io_uring fall back.
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

/// What `clone` may not be asked for.
const NAME_SPACES: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Bytes pushed into a terminal are read by whoever sits there next.
const TERMINAL_TRICKS: &[u64] = &[0x5412, 0x541c];

/// Kinds of sockets that an app needs: of this machine, of the internet, and questions about its network.
const FAMILIES: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The numbers of the x32 interface, which is a second way to all calls on kernels that have it.
#[cfg(target_arch = "x86_64")]
const X32: &[i64] = &[521, 528, 539, 540];
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;

/// Whether the kernel has it, and this processor's calls are known.
pub(super) fn is_available() -> bool {
    std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() && arch().is_some()
}

fn arch() -> Option<TargetArch> {
    std::env::consts::ARCH.try_into().ok()
}

/// Closes the calls for the calling thread and all that it becomes.
pub(super) fn enter() -> Result<(), Error> {
    let Some(arch) = arch().filter(|_| is_available()) else {
        return Ok(());
    };
    for (rules, errno) in lists().map_err(Error::Backend)? {
        seccompiler::apply_filter(&program(rules, errno, arch)?)?;
    }
    Ok(())
}

fn program(rules: Rules, errno: libc::c_int, arch: TargetArch) -> Result<BpfProgram, Error> {
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)
        .and_then(BpfProgram::try_from)
        .map_err(Error::Backend)
}

/// What is refused, by what is answered.
fn lists() -> Result<[(Rules, libc::c_int); 3], seccompiler::BackendError> {
    let is =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let mut never: Rules = NEVER.iter().map(|call| (number(*call), Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    for call in NEVER.iter().map(|call| number(*call)).chain(X32.iter().copied()) {
        never.insert(call | X32_BIT, Vec::new());
    }
    let mut clones = Vec::new();
    for flag in NAME_SPACES {
        let bit = u64::from(flag.unsigned_abs());
        let has = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bit), bit)?;
        clones.push(SeccompRule::new(vec![has])?);
    }
    never.insert(number(libc::SYS_clone), clones);
    let mut tricks = Vec::new();
    for trick in TERMINAL_TRICKS {
        tricks.push(SeccompRule::new(vec![is(1, *trick)?])?);
    }
    never.insert(number(libc::SYS_ioctl), tricks);

    // The flags of `clone3` lie in memory, where a filter cannot look: as if it did not exist, which libraries
    // know from older kernels.
    let unknown: Rules = [(number(libc::SYS_clone3), Vec::new())].into();

    let mut others = Vec::new();
    for family in FAMILIES {
        let family = u64::from(family.unsigned_abs());
        others.push(SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Ne,
            family,
        )?);
    }
    let netlink = u64::from(libc::AF_NETLINK.unsigned_abs());
    let route = u64::from(libc::NETLINK_ROUTE.unsigned_abs());
    let beyond_routes = vec![
        is(0, netlink)?,
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, route)?,
    ];
    let sockets = vec![SeccompRule::new(others)?, SeccompRule::new(beyond_routes)?];
    let families: Rules = [(number(libc::SYS_socket), sockets)].into();
    Ok([
        (never, libc::EPERM),
        (unknown, libc::ENOSYS),
        (families, libc::EAFNOSUPPORT),
    ])
}

#[expect(clippy::useless_conversion, reason = "a long is not 64 bits everywhere")]
fn number(call: libc::c_long) -> i64 {
    i64::from(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_programs_for_every_processor_that_is_known() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64, TargetArch::riscv64] {
            for (rules, errno) in lists().unwrap() {
                assert!(!program(rules, errno, arch).unwrap().is_empty());
            }
        }
    }

    #[test]
    fn what_every_program_calls_is_in_no_list() {
        let lists = lists().unwrap();
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_mmap,
            libc::SYS_openat,
        ] {
            assert!(lists.iter().all(|(rules, _)| !rules.contains_key(&number(call))));
        }
    }
}
