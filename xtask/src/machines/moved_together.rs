//! All three units change their addresses at the same time: no member finds another one, and none can change its URL in etcd.

use anyhow::{Context, Result, ensure};

use super::failures::{Scene, UNITS, boot};
use super::network::Network;
use super::test_bed::TestBed;

/// All addresses change. First one of them comes back, which is enough for all members to find each other. Then none comes back:
/// the data of the unit with the highest revision is restored as the statuses say, and two units join it.
pub fn all_units(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = boot::<UNITS>(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let mut scene = Scene::found(test_bed, &hub, &machines, &network)?;
    scene.move_together(&[0, 1, 2])?;
    scene.update_until(&Scene::check_all_moved)?;
    scene.move_together(&[1])?;
    let updates = scene.update_until(&Scene::check_healthy).context("one address is back")?;
    scene.serve_client()?;

    scene.move_together(&[0, 1, 2])?;
    scene.update_until(&Scene::check_all_moved)?;
    let newest = scene.newest()?;
    let others: Vec<usize> = (0..UNITS).filter(|place| *place != newest).collect();
    for place in &others {
        scene.deployment.model.remove_unit(&scene.units[*place]);
    }
    scene.deployment.settle()?;
    scene.restore_last(newest).context("no address is back")?;
    scene.add_units(&others)?;
    let (writes, _) = scene.finish()?;
    Ok(format!(
        "one earlier address back: all members found each other after {updates} update-status; none back: the data of the unit \
         with the highest revision was restored by the commands in the statuses, and two units joined it; all {writes} writes kept"
    ))
}

impl Scene<'_> {
    /// Gives machines their other addresses at the same time.
    fn move_together(&mut self, places: &[usize]) -> Result<()> {
        for place in places {
            self.network.move_machine(*place)?;
        }
        for place in places {
            self.deployment.model.move_unit(&self.units[*place], &self.network.address(*place));
        }
        self.deployment.settle()
    }

    /// Checks that each unit reports both ways out.
    fn check_all_moved(&self) -> Result<()> {
        for unit in &self.units {
            let parts = [
                "blocked next: start etcd on",
                "give one unit its earlier one back",
                "juju remove-unit",
                "the address of this unit is no longer",
            ];
            self.deployment.check_status(unit, &parts)?;
        }
        Ok(())
    }

    /// Returns the place of the unit with the highest revision in its status.
    fn newest(&self) -> Result<usize> {
        let revision = |place: usize| -> Result<u64> {
            let status = self.deployment.statuses.get(&self.units[place]).context("no status")?;
            let (_, rest) = status.split_once("(here ").context("no revision")?;
            Ok(rest.split(')').next().unwrap_or_default().parse()?)
        };
        let revisions = (0..UNITS).map(revision).collect::<Result<Vec<_>>>()?;
        let newest = (0..UNITS).max_by_key(|place| revisions[*place]).context("no unit")?;
        ensure!(revisions[newest] > 1, "the revisions are {revisions:?}");
        Ok(newest)
    }
}
