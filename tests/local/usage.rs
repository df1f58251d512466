//! What units use of the processors.

use super::*;

#[tokio::test]
async fn usage_of_a_unit_grows_while_it_works() {
    for fixture in [LocalFixture::new(), LocalFixture::new_without_cgroups()] {
        let busy = fixture.spec("busy", "while :; do :; done");
        let idle = fixture.spec("idle", "exec sleep 1000");
        for unit in [&busy, &idle] {
            fixture.start(unit).await;
        }
        let absent = UnitId::parse("absent").unwrap();
        let units = [busy.unit.clone(), idle.unit.clone(), absent];
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let used = fixture.local.measure_cpu(&units).await.unwrap();
            assert_eq!(used.len(), 2, "{used:?}");
            let of = |unit: &UnitId| used.iter().find(|(known, _)| known == unit).unwrap().1;
            if of(&busy.unit) >= Duration::from_millis(300) {
                assert!(of(&idle.unit) < Duration::from_millis(200), "{used:?}");
                break;
            }
            assert!(Instant::now() < deadline, "{used:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
