//! What pages of other sites have browsers ask for.

use super::*;

#[tokio::test]
async fn pages_of_other_sites_change_nothing() {
    let running = start(Limits::default()).await;
    let host = format!("127.0.0.1:{}", running.addresses[&ListenerKind::Plain].port());
    let own = format!("http://{host}");
    let ask = async |method: &str, headers: &[(&str, &str)]| {
        let method = method.parse::<http::Method>().unwrap();
        let mut request = plain_client().request(method, running.plain("/echo")).body("{}");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(ask(method, &[]).await, 200, "a program says nothing of a site");
        for own in [&own, "https://registry.example.com"] {
            let headers = [("origin", own as &str), ("sec-fetch-site", "same-origin")];
            assert_eq!(ask(method, &headers).await, 200, "{own}");
        }
        let other_port = format!("http://127.0.0.1:{}", 1);
        for foreign in [
            "https://evil.example",
            "null",
            "",
            "http://127.0.0.1",
            &other_port,
            "https://evil.example:443",
            "https://registry.example.com.evil.example",
            "https://registry.example.com:444",
            "file://",
            "http://registry.example.com@evil.example",
        ] {
            assert_eq!(ask(method, &[("origin", foreign)]).await, 403, "{method} {foreign}");
        }
        assert_eq!(ask(method, &[("sec-fetch-site", "cross-site")]).await, 403);
        assert_eq!(ask(method, &[("origin", &own), ("origin", "https://evil.example")]).await, 403);
    }
    let reads = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    assert_eq!(ask("GET", &reads).await, 200, "what is read, browsers keep from the page");
    running.stop().await;
}

#[tokio::test]
async fn a_browser_is_not_asked_for_a_password() {
    let running = start(Limits::default()).await;
    let ask = async |path: &str, accept: &str| {
        let sent = plain_client().get(running.plain(path)).header("accept", accept).send().await;
        let answer = sent.unwrap();
        assert_eq!(answer.status(), 401);
        answer.headers().contains_key("www-authenticate")
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    assert!(!ask("/basic", browser).await);
    assert!(ask("/basic", "application/json").await && ask("/basic", "*/*").await);
    assert!(ask("/bearer", browser).await, "that is no prompt");
    running.stop().await;
}
