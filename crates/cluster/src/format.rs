//! When the form of the data may change: once every replica runs a program that knows the new one.

use dtr_types::ReplicaId;

/// What may be done about the form of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raise {
    /// It is the newest that the newest of the programs knows.
    Newest,
    /// All know this newer one.
    To(u32),
    /// These replicas do not know a newer one that others know.
    WaitsFor(Vec<ReplicaId>),
}

/// Judges by the form in the store and the newest that each replica's program knows. The form never goes back.
pub fn raise(current: u32, replicas: &[(ReplicaId, u32)]) -> Raise {
    let newest = replicas.iter().map(|(_, known)| *known).max().unwrap_or(current);
    let common = replicas.iter().map(|(_, known)| *known).min().unwrap_or(current);
    if common > current {
        return Raise::To(common);
    }
    if newest <= current {
        return Raise::Newest;
    }
    let old = replicas.iter().filter(|(_, known)| *known <= current);
    Raise::WaitsFor(old.map(|(id, _)| id.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(current: u32, known: &[u32]) -> Raise {
        let id = |n: usize| format!("{n:012x}").parse().expect("an id");
        let replicas: Vec<_> = known.iter().enumerate().map(|(n, known)| (id(n), *known)).collect();
        raise(current, &replicas)
    }

    #[test]
    fn all_must_know_a_form_before_it_is_used() {
        assert_eq!(judged(1, &[1, 1, 1]), Raise::Newest);
        assert_eq!(judged(1, &[2, 2, 2]), Raise::To(2));
        assert_eq!(judged(1, &[3, 2, 3]), Raise::To(2), "as far as all of them go");
        let Raise::WaitsFor(old) = judged(1, &[2, 1, 2]) else { panic!("one does not know it") };
        assert_eq!(old, ["000000000001".parse().expect("an id")]);
        let Raise::WaitsFor(old) = judged(2, &[2, 3, 2]) else { panic!("two do not know it") };
        assert_eq!(old.len(), 2);
    }

    #[test]
    fn it_never_goes_back() {
        assert_eq!(judged(3, &[2, 2]), Raise::Newest);
        assert_eq!(judged(3, &[]), Raise::Newest);
    }
}
