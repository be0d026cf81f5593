//! Memory that is given back: the settings of the allocator, which it reads from the environment when a process begins and
//! at no other time.

use std::{env, os::unix::process::CommandExt as _, process::Command};

/// mimalloc keeps what was freed for a second, and then until the thread that freed it asks for memory again: a thread that
/// waits for work keeps its share of the last load for ever. With these, what is free goes back after 10 ms, and what is
/// reserved is not taken before it is used. After pushes, pulls and backups a registry has half of the memory then.
const SETTINGS: [(&str, &str); 2] =
    [("MIMALLOC_PURGE_DELAY", "10"), ("MIMALLOC_ARENA_EAGER_COMMIT", "0")];

/// Makes the allocator give memory back, by beginning this process once more with its settings in the environment, unless
/// they are there: then those count. To be called by `main` before anything else. Where the program cannot be begun again
/// it goes on, and takes more memory.
pub fn settle_allocator() {
    if SETTINGS.iter().any(|(name, _)| env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Returns only when it failed.
    let _error = command.args(arguments).envs(SETTINGS).exec();
}
