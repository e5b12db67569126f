//! The router inside another program.

use kvd_router::fleet::{Origin, WorkerSpec};
use kvd_router::service::{AskError, Prompt, SelectRequest, Service};
use kvd_router::settings::Settings;

fn worker(name: &str, max_requests: u32) -> WorkerSpec {
    WorkerSpec { name: name.into(), model: "m".into(), block_tokens: 16, max_requests, ..WorkerSpec::default() }
}

fn request(id: &str) -> SelectRequest {
    SelectRequest { id: id.into(), prompt: Prompt::of_tokens("m", (0..100).collect()), ..SelectRequest::default() }
}

#[tokio::test]
async fn a_frontend_decides_without_a_server() {
    let service = Service::new(Settings::default());
    assert_eq!(service.replace(&Origin::Configuration, vec![worker("a", 1), worker("b", 1)], vec![]), []);
    let first = service.route(&request("r1")).unwrap();
    let second = service.route(&request("r2")).unwrap();
    assert_ne!(first.target.worker, second.target.worker, "load is booked at once");
    assert!(matches!(service.route(&request("r3")), Err(AskError::Busy(_))), "nobody has room");
    service.finish("r1", None, true).unwrap();
    assert_eq!(service.route(&request("r3")).unwrap().target.worker, first.target.worker);
}

#[tokio::test]
async fn who_no_longer_waits_is_not_placed() {
    let service = Service::new(Settings::default());
    service.replace(&Origin::Configuration, vec![worker("a", 1)], vec![]);
    service.route(&request("r1")).unwrap();
    let (waits, gives_up) = (request("r2"), request("r3"));
    let mut first = Box::pin(service.select(&gives_up));
    let second = service.select(&waits);
    assert!(futures_pending(&mut first).await, "r3 waits");
    drop(first);
    let finish = async { service.finish("r1", None, true).unwrap() };
    let (selected, ()) = tokio::join!(second, finish);
    assert_eq!(selected.unwrap().request_id, "r2");
    assert!(matches!(service.finish("r3", None, true), Err(AskError::UnknownRequest(_))));
}

/// True when `future` is not ready at its first poll.
async fn futures_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}
