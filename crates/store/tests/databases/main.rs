//! The store over real databases: SQLite files and a PostgreSQL server that these tests start for themselves.

#[cfg(test)]
mod postgres;
#[cfg(test)]
mod server;
#[cfg(test)]
mod sqlite;
#[cfg(test)]
mod support;
#[cfg(test)]
mod writer;
