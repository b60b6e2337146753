//! The network of sandboxes against a real kernel, in worlds of namespaces that end with each test.

#[cfg(test)]
mod life;
#[cfg(test)]
mod names;
#[cfg(test)]
mod walls;
#[cfg(test)]
mod world;
