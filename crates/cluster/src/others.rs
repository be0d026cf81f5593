//! Whether the others live, asked of all of them at once: before a replica goes on without them.

use dtr_store_etcd::{Reach, reach};
use futures_util::future::join_all;

use crate::{EngineError, EtcdConfig, Folder, majority};

/// Where a member is expected, and what is heard from there.
type Heard = (String, Reach);

/// Why this replica must not go on alone: others live, with whom it has a majority or who have one without it. `None` when
/// nothing speaks against it. Needs neither a majority nor that this replica runs.
///
/// # Errors
/// When the replica's certificates cannot be read or used.
pub async fn against_going_alone(
    folder: &Folder,
    config: &EtcdConfig,
) -> Result<Option<String>, EngineError> {
    let tls = folder.tls()?;
    let heard = join_all(config.all_endpoints().into_iter().map(async |url| {
        let heard = reach(&url, &tls).await?;
        Ok::<_, EngineError>((url, heard))
    }));
    let heard = heard.await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let own = config.member.as_ref().map(crate::MemberConfig::client_url);
    Ok(judge(&heard, own.as_deref()))
}

fn judge(heard: &[Heard], own: Option<&str>) -> Option<String> {
    if let Some((url, _)) = heard.iter().find(|(_, reach)| *reach == Reach::Serves) {
        return Some(format!(
            "the majority of the replicas answers, at {url}: nothing is to be repaired. Mend this replica instead: start it \
             (systemctl start dtr, or \"dtr serve\"); if it runs and is not well, \"dtr status\" says why, and its blob \
             storage or its disk is to be mended. Dead replicas are removed with \"dtr remove\""
        ));
    }
    let others = heard.iter().filter(|(url, _)| Some(url.as_str()) != own);
    for (url, reach) in others.clone() {
        if let Reach::Refuses(why) = reach {
            return Some(format!(
                "{url} is not lost: something answers there, though not as a member of this replica's cluster ({why}). If this \
                 replica was removed, or the others were repaired or restored without it, delete it with \"dtr destroy\" and \
                 let it join; else mend that machine, or switch it off, and run this again"
            ));
        }
    }
    let (all, living): (Vec<_>, Vec<_>) = (
        others.clone().collect(),
        others.filter(|(_, reach)| *reach == Reach::Leaderless).collect(),
    );
    let (members, with_this) = (all.len() + 1, living.len() + 1);
    if all.is_empty() || with_this < majority(members) {
        return None;
    }
    let living: Vec<_> = living.into_iter().map(|(url, _)| url.as_str()).collect();
    Some(format!(
        "with this replica {with_this} of {members} are a majority, as {} answers too: nothing is to be repaired. Start this \
         replica (systemctl start dtr, or \"dtr serve\") and see that they reach each other's ports; they go on by themselves",
        living.join(", ")
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    const OWN: &str = "https://10.0.0.1:2379";

    /// `own`, then the others.
    fn judged(own: Reach, others: &[Reach]) -> Option<String> {
        let others = others.iter().enumerate();
        let others =
            others.map(|(n, reach)| (format!("https://10.0.0.{}:2379", n + 2), reach.clone()));
        let heard: Vec<_> = std::iter::once((OWN.to_owned(), own)).chain(others).collect();
        judge(&heard, Some(OWN))
    }

    fn silent() -> Reach {
        Reach::Silent("no connection".to_owned())
    }

    fn refuses() -> Reach {
        Reach::Refuses("TLS: revoked".to_owned())
    }

    #[test]
    fn the_last_one_may_go_alone() {
        for own in [silent(), Reach::Leaderless, refuses()] {
            assert_eq!(judged(own.clone(), &[]), None, "{own:?}");
            assert_eq!(judged(own.clone(), &[silent(), silent()]), None, "{own:?}");
            let five = [silent(), Reach::Leaderless, silent(), silent()];
            assert_eq!(judged(own.clone(), &five), None, "two of five, {own:?}");
        }
    }

    #[test]
    fn beside_a_majority_none_does() {
        let told = judged(silent(), &[silent(), Reach::Serves]).unwrap();
        assert!(told.contains("https://10.0.0.3:2379") && told.contains("start it"), "{told}");
        let told = judged(Reach::Serves, &[silent(), silent()]).unwrap();
        assert!(
            told.contains("nothing is to be repaired"),
            "it runs, and is ill otherwise: {told}"
        );
        let told = judged(silent(), &[Reach::Leaderless, silent()]).unwrap();
        assert!(told.contains("2 of 3 are a majority"), "{told}");
        let five = [Reach::Leaderless, silent(), Reach::Leaderless, silent()];
        assert!(judged(silent(), &five).unwrap().contains("3 of 5"));
        let told = judged(Reach::Leaderless, &[silent(), refuses()]).unwrap();
        assert!(told.contains("10.0.0.3:2379 is not lost") && told.contains("revoked"), "{told}");
    }
}
