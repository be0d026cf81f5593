//! The embedded engine against the model: I/O errors and power losses at any operation of the disk.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use dtr_store::{
    SharedStore,
    model_test::{Dice, Rig, run},
};
use dtr_store_embedded::{
    EmbeddedStore, Options,
    simulated::{Disk, Fault},
};
use dtr_types::{ManualClock, Timestamp};

struct Simulated {
    disk: Disk,
    clock: Arc<ManualClock>,
    quick_repair: bool,
    store: Option<Arc<EmbeddedStore>>,
}

impl Simulated {
    fn new(quick_repair: bool) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
        let mut rig = Self { disk: Disk::new(), clock, quick_repair, store: None };
        rig.open();
        rig
    }

    fn open(&mut self) {
        let clock = self.clock.clone();
        let options = Options { clock, quick_repair: self.quick_repair, ..Options::default() };
        let store = EmbeddedStore::open_with_backend(self.disk.clone(), options);
        self.store = Some(store.expect("opens after whatever happened"));
    }
}

#[async_trait::async_trait]
impl Rig for Simulated {
    fn store(&self) -> SharedStore {
        self.store.clone().expect("is open")
    }

    fn arm(&mut self, random: u64) {
        let mut dice = Dice::new(random);
        let kinds = [ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::ReadOnlyFilesystem];
        let kind = kinds[dice.below(3) as usize];
        let fault = Fault { after: dice.below(60), reads: dice.below(2) == 0, kind };
        self.disk.set_fault(Some(fault));
    }

    async fn recover(&mut self, random: u64) {
        let mut dice = Dice::new(random);
        let keep = dice.below(101);
        match dice.below(3) {
            0 => self.disk.set_fault(None),
            1 => {
                // The process dies, the machine does not: what was written stays.
                self.store = None;
                self.disk.set_fault(None);
                self.open();
            }
            _ => {
                self.disk.lose_power(|| dice.below(100) < keep);
                self.store = None;
                self.open();
            }
        }
    }

    async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
    }
}

async fn seeds(from: u64, quick_repair: bool) {
    for seed in from..from + 12 {
        run(&mut Simulated::new(quick_repair), seed, 250).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model_and_opens_quickly() {
    seeds(1_000, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model_and_opens_by_repair() {
    seeds(2_000, false).await;
}
