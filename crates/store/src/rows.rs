//! Values on their way to and from a database: only texts and whole numbers, which all databases have alike.

use atoll_core::store::{StoreError, check_text};
use jiff::Timestamp;
use sqlx::{
    Arguments, ColumnIndex, Database, Decode, Encode, Row as _, Type, TypeInfo, ValueRef, query::Query,
};

/// An argument of a statement, or a column of a row.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<Timestamp> for Value {
    fn from(at: Timestamp) -> Self {
        Self::Int(at.as_microsecond())
    }
}

/// Refuses what not every database can keep.
pub(crate) fn check(values: &[Value]) -> Result<(), StoreError> {
    values.iter().try_for_each(|value| match value {
        Value::Text(text) => check_text(text),
        Value::Int(_) => Ok(()),
    })
}

/// A prepared statement with its arguments.
pub(crate) fn statement<DB: Database>(
    sql: &'static str,
    values: Vec<Value>,
) -> Query<'static, DB, DB::Arguments>
where
    for<'t> String: Encode<'t, DB> + Type<DB>,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
    DB::Arguments: Arguments<Database = DB>,
{
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Int(number) => query.bind(number),
    })
}

/// One row of an answer, read column by column in the statement's order.
pub(crate) struct Row(std::vec::IntoIter<Value>);

impl Row {
    /// Takes a row out of its database's own form.
    pub(crate) fn decode<DB: Database>(row: &DB::Row) -> Result<Self, sqlx::Error>
    where
        for<'r> String: Decode<'r, DB> + Type<DB>,
        for<'r> i64: Decode<'r, DB> + Type<DB>,
        usize: ColumnIndex<DB::Row>,
    {
        let column = |at: usize| {
            Ok(match row.try_get_raw(at)?.type_info().name() {
                "INTEGER" | "INT8" => Value::Int(row.try_get(at)?),
                _ => Value::Text(row.try_get(at)?),
            })
        };
        let columns: Result<Vec<_>, sqlx::Error> = (0..row.len()).map(column).collect();
        Ok(Self(columns?.into_iter()))
    }

    pub(crate) fn text(&mut self) -> Result<String, StoreError> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text),
            other => Err(unreadable(format!("{other:?} is no text"))),
        }
    }

    pub(crate) fn int(&mut self) -> Result<i64, StoreError> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(number),
            other => Err(unreadable(format!("{other:?} is no number"))),
        }
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, StoreError> {
        Timestamp::from_microsecond(self.int()?).map_err(unreadable)
    }
}

/// A row that this program did not write, or no longer understands.
pub(crate) fn unreadable(why: impl std::fmt::Display) -> StoreError {
    StoreError::Database(format!("a row cannot be read: {why}"))
}
