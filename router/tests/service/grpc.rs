//! The same over gRPC.

use crate::support::{Engine, Router, tokens};
use kvd_proto::router::router_client::RouterClient;
use kvd_proto::router::{
    ExplainRequest, FinishRequest, HeartbeatRequest, LoadsRequest, PrefillCompleteRequest, Prompt, QueryRequest, RegisterWorkerRequest,
    ReserveRequest, SelectRequest, UnregisterWorkerRequest, WorkersRequest,
};
use tonic::Code;
use tonic::transport::Channel;

fn ask(router: &Router, questions: impl AsyncFnOnce(RouterClient<Channel>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { questions(RouterClient::connect(format!("http://{}", router.grpc)).await.unwrap()).await });
}

fn prompt(tokens: Vec<u32>) -> Option<Prompt> {
    Some(Prompt { model: "m".into(), tokens, ..Prompt::default() })
}

#[test]
fn a_request_lives_from_select_to_finish() {
    let engine = Engine::start(16);
    let router = Router::start(&engine.toml("a"));
    engine.store(&tokens(1, 1600), "GPU");
    router.wait_matched("m", &tokens(1, 1600), "a", 1600);
    ask(&router, async |mut client| {
        let query = client.query(QueryRequest { prompt: prompt(tokens(1, 800)) }).await.unwrap().into_inner();
        let overlap = query.workers[0].overlap.unwrap();
        assert_eq!((overlap.blocks, overlap.device, overlap.known, query.workers[0].all_tokens), (50, 50, true, 800));
        let request = SelectRequest { request_id: "r".into(), prompt: prompt(tokens(1, 2000)), ..SelectRequest::default() };
        let selected = client.select(request.clone()).await.unwrap().into_inner();
        assert_eq!((selected.worker.as_str(), selected.url.as_str(), selected.mode.as_str()), ("a", "http://a", "kv"));
        assert_eq!(selected.overlap.unwrap().device, 100);
        assert_eq!(client.select(request).await.unwrap_err().code(), Code::AlreadyExists, "its name is taken");
        let explained = client.explain(ExplainRequest { request_id: "r".into() }).await.unwrap().into_inner();
        assert!(explained.text.contains("a was the only one that could take it"), "{}", explained.text);
        let done = PrefillCompleteRequest { request_id: "r".into(), cached_tokens: Some(1600), prefill_ms: Some(20.0) };
        client.prefill_complete(done).await.unwrap();
        let loads = client.loads(LoadsRequest::default()).await.unwrap().into_inner().loads;
        assert_eq!((loads[0].waiting_requests, loads[0].decoding_requests), (0, 1));
        client.finish(FinishRequest { request_id: "r".into(), output_tokens: 5, failed: false }).await.unwrap();
        let again = client.finish(FinishRequest { request_id: "r".into(), ..FinishRequest::default() }).await.unwrap_err();
        assert_eq!(again.code(), Code::NotFound);
    });
}

#[test]
fn what_another_decided_is_booked() {
    let router = Router::start("[[workers]]\nname = \"a\"\nmodel = \"m\"\nblock_tokens = 16\nranks = 2\n");
    ask(&router, async |mut client| {
        let reserve = ReserveRequest {
            request_id: "r".into(),
            worker: "a".into(),
            rank: 1,
            prompt: prompt(tokens(1, 100)),
            expected_output_tokens: 9,
        };
        client.reserve(reserve).await.unwrap();
        let loads = client.loads(LoadsRequest { model: "m".into() }).await.unwrap().into_inner().loads;
        assert_eq!(loads.iter().map(|load| load.prefill_tokens).collect::<Vec<_>>(), [0, 100]);
    });
}

#[test]
fn a_worker_registers_renews_and_leaves() {
    let router = Router::start("");
    ask(&router, async |mut client| {
        let spec = |block: u32| format!("{{\"name\": \"a\", \"model\": \"m\", \"block_tokens\": {block}}}");
        let register = |block| RegisterWorkerRequest { spec_json: spec(block), ttl_ms: 60_000 };
        let registered = client.register_worker(register(16)).await.unwrap().into_inner();
        assert_eq!(client.heartbeat(HeartbeatRequest { lease: registered.lease }).await.unwrap().into_inner().ttl_ms, 60_000);
        let refused = client.register_worker(register(32)).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert!(refused.message().contains("blocks of 16 tokens") && refused.message().contains("blocks of 32"), "{refused}");
        let strange = RegisterWorkerRequest { spec_json: "{\"nam\": 1}".into(), ttl_ms: 0 };
        assert_eq!(client.register_worker(strange).await.unwrap_err().code(), Code::InvalidArgument);
        let workers = client.workers(WorkersRequest::default()).await.unwrap().into_inner().workers;
        assert_eq!((workers.len(), workers[0].ranks[0].state.as_str()), (1, "it has neither `events` nor a `node`"));
        client.unregister_worker(UnregisterWorkerRequest { worker: "a".into() }).await.unwrap();
        assert_eq!(client.query(QueryRequest { prompt: prompt(vec![1]) }).await.unwrap_err().code(), Code::NotFound);
    });
}
