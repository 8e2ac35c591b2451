//! Which rows of a table: all of a range, or all of some entities.
//!
//! A page continues after a key without comparing tuples, which neither dialect answers by an index in every version: first
//! the rows that agree with the key in all columns but the last, then those that agree in one less, and so on. Each statement
//! is one stretch of the primary key, or the stretches of some entities.

use super::cell::Cell;
use super::tables::{Owner, Table};
use crate::db::{padded, placeholders, rows_of};
use crate::owned::Entity;
use crate::range::KeyRange;

/// Which rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of a range.
    Range(KeyRange),
    /// All of some entities of one kind.
    Entities(Entities),
}

/// The beginnings of the primary keys of some entities of one kind, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entities(Vec<Vec<Cell>>);

impl Entities {
    pub(crate) fn of<'a>(entities: impl IntoIterator<Item = &'a Entity>) -> Self {
        let mut prefixes: Vec<_> = entities.into_iter().map(Entity::prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self(prefixes)
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &[Cell]> {
        self.0.iter().map(Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first column of the first entity and of the last; none without entities.
    pub(crate) fn bounds(&self) -> Option<(&Cell, &Cell)> {
        Some((self.0.first()?.first()?, self.0.last()?.first()?))
    }
}

impl Scope {
    pub(crate) fn entity(entity: &Entity) -> Self {
        Self::Entities(Entities::of([entity]))
    }
}

/// A condition and its values.
pub(super) struct Condition {
    pub(super) text: String,
    pub(super) values: Vec<Cell>,
}

/// Where rows go on after a key, each condition one stretch of the primary key, or one for each entity, in order.
pub(super) fn stretches(table: &Table, scope: &Scope, after: Option<&[Cell]>) -> Vec<Condition> {
    let fixed = match scope {
        Scope::Range(_) => 0,
        Scope::Entities(_) => table.owner.columns(),
    };
    let mut all = Vec::new();
    for level in (fixed.max(1)..table.key).rev() {
        let Some(after) = after else { break };
        let mut condition = equal(table, &after[..level]);
        condition.text += &format!(" AND {} > ?", table.columns[level].0);
        condition.values.push(after[level].clone());
        all.push(condition);
    }
    match (scope, after) {
        (Scope::Range(range), None) => {
            all.push(bounded(table, range, ">=", bound(table, range.start)));
        }
        (Scope::Range(range), Some(after)) => {
            all.push(bounded(table, range, ">", after[0].clone()));
        }
        (Scope::Entities(Entities(entities)), after) => {
            let done = after.map_or(0, |after| {
                entities.partition_point(|it| it.as_slice() <= &after[..fixed])
            });
            all.extend(among(table, &entities[done..]));
        }
    }
    all
}

/// The first columns have these values.
pub(super) fn equal(table: &Table, values: &[Cell]) -> Condition {
    let columns = table.columns[..values.len()].iter();
    let columns: Vec<String> = columns.map(|(name, _)| format!("{name} = ?")).collect();
    Condition {
        text: columns.join(" AND "),
        values: values.to_vec(),
    }
}

/// All rows of these entities; none when there are none.
fn among(table: &Table, entities: &[Vec<Cell>]) -> Option<Condition> {
    let [first, others @ ..] = entities else {
        return None;
    };
    if others.is_empty() {
        return Some(equal(table, first));
    }
    let values: Vec<Cell> = padded(entities).flatten().cloned().collect();
    let columns = first.len();
    Some(Condition {
        text: in_columns(&table.names(0, columns), columns, values.len() / columns),
        values,
    })
}

/// The first column from `from` on, within a range.
fn bounded(table: &Table, range: &KeyRange, comparison: &str, from: Cell) -> Condition {
    let column = table.columns[0].0;
    let mut condition = Condition {
        text: format!("{column} {comparison} ?"),
        values: vec![from],
    };
    if let Some(end) = range.end {
        condition.text += &format!(" AND {column} < ?");
        condition.values.push(bound(table, end));
    }
    condition
}

/// A key of the key space as the smallest value of a table's first column that is not before it.
fn bound(table: &Table, key: u64) -> Cell {
    let mut bytes = key.to_be_bytes().to_vec();
    if table.owner == Owner::Conversation {
        bytes.extend([0; 8]);
    }
    Cell::Bytes(bytes)
}

/// The first columns have one of `n` values.
pub(super) fn in_columns(names: &str, columns: usize, n: usize) -> String {
    match columns {
        1 => format!("{names} IN ({})", placeholders(n)),
        _ => format!("({names}) IN ({{rows}}{})", rows_of(n, columns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConversationId, UserKey};

    #[test]
    fn a_page_of_some_entities_goes_on_in_its_own_and_then_with_the_others() {
        let table = Table::named("messages").unwrap();
        let id = |low| ConversationId::new(UserKey(7), low);
        let key = |low| Cell::Bytes(id(low).as_bytes().to_vec());
        let entities = [3, 1, 2, 2].map(|low| Entity::Conversation(id(low)));
        let scope = Scope::Entities(Entities::of(&entities));
        let conditions = |after: Option<&[Cell]>| -> Vec<(String, Vec<Cell>)> {
            let all = stretches(table, &scope, after).into_iter();
            all.map(|it| (it.text, it.values)).collect()
        };
        let among = |n: usize| format!("conversation_id IN ({})", placeholders(n));
        let all = vec![key(1), key(2), key(3)];
        assert_eq!(conditions(None), [(among(3), all)]);
        let rest = "conversation_id = ? AND seq > ?".to_owned();
        assert_eq!(
            conditions(Some(&[key(1), Cell::Int(5)])),
            [
                (rest.clone(), vec![key(1), Cell::Int(5)]),
                (among(2), vec![key(2), key(3)])
            ]
        );
        assert_eq!(
            conditions(Some(&[key(3), Cell::Int(9)])),
            [(rest, vec![key(3), Cell::Int(9)])]
        );
    }
}
