//! The system calls that a process may not make any more, with a seccomp filter.
//!
//! A list of what is refused, not of what is allowed: the C library, and the modules that a host's `nsswitch.conf` loads
//! into this process to resolve names, make calls that nobody here can list for every host and release. The units, which
//! know their host, add a list of what is allowed. A refused call returns `EPERM`, so a program that tries one goes on and
//! can report it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// Calls that are always refused.
const REFUSED: &[c_long] = &[
    // Other programs: to become one, to look into one, to take its descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Another view of the system: namespaces, mounts, roots. `clone` is refused by its flags.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_vhangup,
    // It does what other calls do, and is not filtered.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Keys of the kernel.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Who and where this is, and what time it is.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_personality,
    // Files without their names, devices, other owners, and watching everybody's.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fanotify_init,
];

/// Calls that only some processors have.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_mknod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// With one of these flags `clone` makes no thread and no child, but another view of the system.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// From here on x86-64 numbers its calls a second time.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Refuses the calls for all threads of this process, and returns how many there are.
///
/// # Errors
/// A sentence: what is not restricted and what it takes.
pub(super) fn refuse() -> Result<usize, String> {
    let failed = |error: String| format!("the system calls of this process are not restricted: {error}");
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().chain(REFUSED_HERE).map(always).collect();
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(has_flag).collect::<Result<_, _>>().map_err(failed)?);
    let count = rules.len() + 1;
    // The flags of this one are in memory, where a filter cannot look. The C library knows kernels without it, and uses
    // `clone` there.
    let unknown = [always(&libc::SYS_clone3)].into_iter().collect();
    for (rules, error) in [(unknown, libc::ENOSYS), (rules, libc::EPERM)] {
        let program = compile(rules, error).map_err(failed)?;
        install(&program).map_err(|error| failed(error.to_string()))?;
    }
    Ok(count)
}

fn always(call: &c_long) -> (i64, Vec<SeccompRule>) {
    (*call, Vec::new())
}

fn has_flag(flag: &libc::c_int) -> Result<SeccompRule, String> {
    let flag = u64::from(flag.cast_unsigned());
    let is_set = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag);
    is_set.and_then(|is_set| SeccompRule::new(vec![is_set])).map_err(|error| error.to_string())
}

/// A program that fails these calls with `error`. A call of another processor's kind ends the process.
fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int) -> Result<BpfProgram, String> {
    let refuse = SeccompAction::Errno(error.cast_unsigned());
    let processor = std::env::consts::ARCH.try_into().map_err(|_| "there is no filter for this processor")?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, processor);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| error.to_string())?;
    Ok([refuse_second_numbers(), program].concat())
}

/// Refuses every call by its second number. Jumps are relative: this can stand in front of another program.
#[cfg(target_arch = "x86_64")]
fn refuse_second_numbers() -> BpfProgram {
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn refuse_second_numbers() -> BpfProgram {
    Vec::<sock_filter>::new()
}

/// Installs the program for all threads. Up to Linux 5.15 a filter also slows down every branch that the processor
/// predicts, unless it is told not to; later kernels do not.
fn install(program: &[sock_filter]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        filter: *const sock_filter,
    }
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::other("the filter is too long"))?;
    let argument = Program { length, filter: program.as_ptr() };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: `argument` has the layout of the kernel's `struct sock_fprog`; it and the `length` steps that it points to
    // outlive the call, which only reads them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const argument) };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}
