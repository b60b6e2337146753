//! Between the cluster's objects and core's values. Pure: no clock, no cluster.

mod recipe;
mod sandbox;

pub use recipe::{
    lifecycle_out, network_in, network_out, overlaid, recipe_in, requests_in, template_in, template_out,
};
pub use sandbox::{Resolved, Surroundings, deadline, from_core, phase_in, phase_out, resolve, to_core};
