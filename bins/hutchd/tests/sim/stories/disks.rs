//! Stories of disks of the host, which are plugged for the containers that bring them.

use super::{INIT, STAYS, Teller, Told};
use crate::world::client::Wanted;
use runtime_core::{
    container::Force,
    host::Place,
    sandbox::{Standing, Verb},
};

impl Teller {
    /// Creates one that brings a disk, with a relay beside it.
    async fn with_disk(&self, id: &str, join: &str) -> Told {
        let wanted = Wanted {
            binds: &["hosts", "disk"],
            ..self.wanted(id, STAYS, Some(join))
        };
        let key = format!("{id}-key");
        self.client.create_stood_for(wanted, &key).await?;
        Ok(())
    }

    /// How many the VM of a container has of it, beside its root.
    async fn expect_disks(&self, id: &str, due: usize) -> Told {
        let found = self.disks_of(self.client.find(id).await?);
        let what = format!("{id} has {found} disks where {due} were due");
        self.expect(found == due, what);
        Ok(())
    }

    fn disks_of(&self, place: Place) -> usize {
        let mine = format!("hutch-v{}-", place.number);
        let plugged = self.client.world.vms.blocks(place.uid);
        let mine = plugged.iter().filter(|serial| serial.starts_with(&mine));
        mine.count()
    }

    /// They come hot and go with their container; a pause leaves them, and another VM has none of them.
    pub(super) async fn sandbox_disks(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.sandbox().await?;
        let (goes, stays, late) = (self.member(0), self.member(1), self.member(2));
        let (a, b) = tokio::join!(self.with_disk(&goes, id), async {
            self.moment().await;
            self.with_disk(&stays, id).await
        });
        a.and(b)?;
        for member in [&goes, &stays] {
            client.start(member).await?;
            self.expect_disks(member, 1).await?;
        }
        let place = client.find(&goes).await?;
        client.delete(&goes, Force::Yes).await?;
        let left = self.disks_of(place);
        self.expect(left == 0, "a disk stayed when its container went");
        self.expect_disks(&stays, 1).await?;
        client.order(id, Verb::Pause).await?;
        client.order(id, Verb::Resume).await?;
        self.expect_disks(&stays, 1).await?;
        client.order(id, Verb::Stop(Force::No)).await?;
        self.expect_code(&client.wait(&stays, &INIT).await?, 143);
        client.order(id, Verb::Start).await?;
        self.expect_disks(&stays, 0).await?;
        self.with_disk(&late, id).await?;
        client.start(&late).await?;
        self.expect_disks(&late, 1).await?;
        self.expect_standing(Standing::Running).await?;
        client.delete_sandbox(id, Force::Yes).await?;
        self.sandbox_gone().await;
        Ok(())
    }
}
