//! The process between the helper and the sandbox: it becomes the sandbox's kernel uid, makes the user namespace as that
//! uid and every other namespace inside it, and forks the first process. Made in this order, the sandbox's own root owns
//! its network (port 80 can be bound) and its inotify instances are charged to its own uid, not to the host's root.

use std::io::{PipeReader, PipeWriter, Read};

use super::{
    Launch,
    entry::Report,
    first::{self, Inherited},
    raw::{self, During, Fork, Step},
};

const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// Never returns: ends with 0 after the fork, or as the first process.
pub fn run(launch: &Launch, inherited: Inherited, mut report: PipeWriter, mut going: PipeReader) -> ! {
    match found(launch, &mut report, &mut going) {
        Ok(Fork::Parent(first)) => match Report::First(first).write(&mut report) {
            Ok(()) => raw::exit(0),
            Err(_) => raw::exit(1),
        },
        Ok(Fork::Child) => first::run(launch, inherited, report, going),
        Err(problem) => {
            Report::fail(&problem, &mut report);
            raw::exit(1)
        }
    }
}

fn found(launch: &Launch, report: &mut PipeWriter, going: &mut PipeReader) -> Step<Fork> {
    raw::become_id(launch.uid_base).during("become the sandbox's uid")?;
    raw::unshare(libc::CLONE_NEWUSER).during("make the user namespace")?;
    Report::UserNamespace.write(report).during("report the user namespace")?;
    wait(going)?;
    raw::become_id(0).during("become root of the user namespace")?;
    raw::unshare(NAMESPACES).during("make the namespaces")?;
    raw::fork().during("fork the first process")
}

/// Waits until the helper has done its part.
pub fn wait(going: &mut PipeReader) -> Step {
    going.read_exact(&mut [0]).during("wait for the launcher")
}
