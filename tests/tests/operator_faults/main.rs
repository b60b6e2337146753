//! What goes wrong on a real cluster, and what is done on purpose: lost nodes, a control plane that stalls, tenants who
//! write what they should not, and code inside that takes all it can get.

mod control;
mod inside;
mod nodes;
mod tenants;
mod ways;

use atoll_tests::{Run, stage::Stage, story};
use std::process::ExitCode;

fn main() -> ExitCode {
    story("operator_faults", async |run: &mut Run| {
        let stage = Stage::set("atoll-resil")?;
        let mut operator = stage.operator("one", &[])?;
        run.case("paused_sandboxes_give_their_cpu_back", ways::resize(&stage)).await;
        run.case("what_was_refused_goes_on_when_the_cause_is_gone", ways::goes_on(&stage)).await;
        run.case("two_sandboxes_of_one_user", ways::two_of_one_user(&stage)).await;
        run.case("gvisor", ways::gvisor(&stage)).await;
        run.case("an_agent_brought_by_an_init_container", ways::init_container(&stage, &mut operator)).await;
        run.case("rights_of_a_tenants_user", tenants::rights(&stage)).await;
        run.case("what_a_tenant_forges_is_not_believed", tenants::forged(&stage)).await;
        run.case("host_names_cannot_be_taken", tenants::host_names(&stage)).await;
        run.case("volumes_of_others_cannot_be_had", tenants::volumes(&stage)).await;
        run.case("templates_of_others_cannot_be_had", tenants::templates(&stage)).await;
        run.case("private_images_of_others_cannot_be_had", tenants::private_image(&stage)).await;
        run.case("a_fork_bomb_hurts_only_its_sandbox", inside::fork_bomb(&stage)).await;
        run.case("want_of_memory_ends_the_command", inside::memory(&stage)).await;
        run.case("a_full_disk_is_told", inside::disk(&stage)).await;
        run.case("a_sandbox_that_takes_all_cpu_gets_its_share", inside::cpu(&stage)).await;
        run.case("etcd_stalls", control::etcd(&stage, &operator)).await;
        run.case("the_api_server_dies", control::api_server(&stage)).await;
        run.case("both_at_once", control::both(&stage)).await;
        run.case("a_lost_node", nodes::lost(&stage)).await;
        run.case("a_node_that_is_cut_off", nodes::cut(&stage)).await;
        drop(operator);
        run.case("nothing_is_left_behind", async { stage.strike() }).await;
        Ok(())
    })
}
