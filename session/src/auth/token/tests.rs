use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// What must not show anywhere.
const CANARY: &str = "hunter2:canary";

/// A token server that gives one prepared answer after another, and keeps what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                log.lock().unwrap().push(request);
                // The other side may hang up in the middle of an answer that is too long.
                let _written = stream.write_all(answer.as_bytes()).await;
                let _closed = stream.shutdown().await;
            }
            // Accepts, and says nothing.
            let _open = listener.accept().await;
            std::future::pending::<()>().await;
        });
        Self {
            url,
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            assert_ne!(count, 0, "{request}");
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        if body.len() == length {
            return request;
        }
    }
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn wanted(realm: &str) -> TokenRequest {
    TokenRequest {
        client_id: "buildkit-client".to_owned(),
        host: "registry.test".to_owned(),
        realm: realm.to_owned(),
        service: "the service".to_owned(),
        scopes: vec!["repository:a:pull".to_owned(), "repository:b:pull,push".to_owned()],
    }
}

fn login(username: &str, secret: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        secret: Secret::new(secret.to_owned()),
    }
}

/// Asks a server of these answers; what comes of it, and what was asked.
async fn ask(answers: &[&str], login: &Credentials) -> (Result<Token, TokenError>, Vec<String>) {
    let server = Server::start(answers).await;
    let outcome = TokenFetcher::new().fetch(&wanted(&server.url), login).await;
    (outcome, server.asked())
}

fn line(request: &str) -> &str {
    request.lines().next().unwrap()
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").unwrap().1
}

const QUERY: &str = "service=the+service&client_id=buildkit-client\
                     &scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull%2Cpush";
const FORM_START: &str = "service=the+service&client_id=buildkit-client\
                          &scope=repository%3Aa%3Apull+repository%3Ab%3Apull%2Cpush";

#[tokio::test]
async fn nobody_asks_without_a_name() {
    let json = r#"{"token": "t", "expires_in": 300, "issued_at": "1970-01-01T00:01:40Z"}"#;
    for nobody in [Credentials::default(), login("name alone", "")] {
        let (token, asked) = ask(&[&answer("200 OK", json)], &nobody).await;
        let expected = Token {
            token: Secret::new("t"),
            expires_in: Some(Duration::from_secs(300)),
            issued_at: 100,
        };
        assert_eq!(token.unwrap(), expected);
        assert_eq!(line(&asked[0]), format!("GET /token?{QUERY} HTTP/1.1"));
        assert!(!asked[0].contains("authorization"), "{}", asked[0]);
    }
}

#[tokio::test]
async fn passwords_go_into_a_header() {
    let ok = answer("200 OK", r#"{"access_token": "t"}"#);
    let (token, asked) = ask(&[&ok], &login("me", CANARY)).await;
    let token = token.unwrap();
    assert_eq!(
        (token.token.expose_str(), token.expires_in, token.issued_at),
        (Some("t"), None, 0)
    );
    assert_eq!(line(&asked[0]), format!("GET /token?{QUERY} HTTP/1.1"));
    let header = format!("authorization: Basic {}\r\n", STANDARD.encode(format!("me:{CANARY}")));
    assert!(asked[0].contains(&header), "{}", asked[0]);
}

#[tokio::test]
async fn identity_tokens_go_into_a_form() {
    let ok = answer("200 OK", r#"{"access_token": "t", "refresh_token": "ignored"}"#);
    let (token, asked) = ask(&[&ok], &login("", "refresh&me")).await;
    assert_eq!(token.unwrap().token.expose_str(), Some("t"));
    assert_eq!(line(&asked[0]), "POST /token HTTP/1.1");
    assert!(asked[0].contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert_eq!(
        body(&asked[0]),
        format!("{FORM_START}&grant_type=refresh_token&refresh_token=refresh%26me")
    );
}

#[tokio::test]
async fn servers_that_know_one_way_only_are_asked_that_way() {
    let ok = answer("200 OK", r#"{"token": "t"}"#);
    for status in ["404 Not Found", "405 Method Not Allowed"] {
        let no = answer(status, "");
        let (token, asked) = ask(&[&no, &ok], &login("me", "p w")).await;
        assert_eq!(token.unwrap().token.expose_str(), Some("t"), "{status}");
        assert_eq!(line(&asked[1]), "POST /token HTTP/1.1");
        assert_eq!(
            body(&asked[1]),
            format!("{FORM_START}&grant_type=password&username=me&password=p+w")
        );
        let (token, asked) = ask(&[&no, &ok], &login("", "refresh")).await;
        assert_eq!(token.unwrap().token.expose_str(), Some("t"), "{status}");
        assert_eq!(line(&asked[1]), format!("GET /token?{QUERY} HTTP/1.1"));
        assert!(asked[1].contains(&STANDARD.encode(":refresh")));
        // Without credentials there is no other way; with both tried, there is no third.
        let (refused, asked) = ask(&[&no], &Credentials::default()).await;
        assert!(matches!(refused, Err(TokenError::Refused { .. })), "{refused:?}");
        assert_eq!(asked.len(), 1);
        let (refused, asked) = ask(&[&no, &no], &login("me", "p")).await;
        assert!(matches!(refused, Err(TokenError::Refused { .. })), "{refused:?}");
        assert_eq!(asked.len(), 2);
    }
}

/// The error in every form in which it could be shown.
fn shown(error: &TokenError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(" {error:?} {error}"));
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn bad_answers_are_errors_without_secrets() {
    let redirect = "HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let spaced = format!(r#"{{"token": "a {CANARY}"}}"#);
    let long = format!(r#"{{"token": "{}"}}"#, "x".repeat(MAX_TOKEN + 1));
    let rows = [
        (
            answer("401 Unauthorized", CANARY),
            "refused a token for registry.test: 401 Unauthorized",
        ),
        (answer("500 Internal Server Error", CANARY), "500 Internal Server Error"),
        (redirect.to_owned(), "307 Temporary Redirect"),
        (answer("200 OK", CANARY), "it is not understood"),
        (
            answer("200 OK", &format!(r#"{{"token": ["{CANARY}"]}}"#)),
            "it is not understood",
        ),
        (answer("200 OK", r#"{"token": "", "expires_in": 1}"#), "it has no token"),
        (answer("200 OK", &spaced), "its token is not one word"),
        (answer("200 OK", &long), "its token is too long"),
        (answer("200 OK", &" ".repeat(MAX_ANSWER + 1)), "it is too long"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(),
            "failed to get a token",
        ),
        (CANARY.to_owned(), "failed to get a token"),
    ];
    for (answer, expected) in rows {
        for login in [login("me", CANARY), login("", CANARY)] {
            let (outcome, asked) = ask(&[&answer], &login).await;
            let text = shown(&outcome.unwrap_err());
            assert!(text.contains(expected), "{expected}: {text}");
            for secret in ["hunter2", "canary", &STANDARD.encode(format!("me:{CANARY}"))] {
                assert!(!text.contains(secret), "{text}");
            }
            assert_eq!(asked.len(), 1, "{expected}");
        }
    }
}

/// Everything that is logged while it lives, by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn secrets_are_not_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    tracing::trace!("logging works");
    let ok = answer("200 OK", r#"{"token": "canary"}"#);
    for login in [login("me", CANARY), login("", CANARY)] {
        let (token, _) = ask(&[&ok], &login).await;
        assert!(!format!("{token:?} {login:?}").contains("canary"));
    }
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("logging works"));
    for secret in ["hunter2", "canary", &STANDARD.encode(format!("me:{CANARY}"))] {
        assert!(!logged.contains(secret), "{logged}");
    }
}

#[tokio::test]
async fn odd_lifetimes_do_not_matter() {
    let rows = [
        ("-5", None),
        ("0", None),
        ("3.5", None),
        ("18446744073709551615", Some(u64::MAX)),
    ];
    for (seconds, expected) in rows {
        let json = format!(r#"{{"token": "t", "expires_in": {seconds}, "issued_at": "yesterday"}}"#);
        let (token, _) = ask(&[&answer("200 OK", &json)], &Credentials::default()).await;
        let token = token.unwrap();
        assert_eq!(token.expires_in, expected.map(Duration::from_secs), "{seconds}");
        assert_eq!(token.issued_at, 0);
    }
}

#[tokio::test]
async fn slow_servers_are_given_up() {
    let server = Server::start(&[]).await;
    let fetcher = TokenFetcher::with_timeout(Duration::from_millis(50));
    let outcome = fetcher.fetch(&wanted(&server.url), &login("me", CANARY)).await;
    assert!(matches!(outcome, Err(TokenError::Timeout { .. })), "{outcome:?}");
}

#[tokio::test]
async fn servers_that_are_not_there_are_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let outcome = TokenFetcher::new().fetch(&wanted(&realm), &login("me", CANARY)).await;
    let text = shown(&outcome.unwrap_err());
    assert!(text.contains("failed to get a token for registry.test"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn token_servers_are_checked() {
    let rows = [
        ("https://auth.docker.io/token", "registry-1.docker.io", true),
        ("https://auth.test:8443/?a=b", "registry.test", true),
        ("http://localhost/token", "registry.test", true),
        ("http://127.1.2.3:5001/token", "registry.test", true),
        ("http://[::1]:5001/token", "registry.test", true),
        ("http://auth.test/token", "localhost:5000", true),
        ("http://auth.test/token", "127.0.0.1", true),
        ("http://auth.test/token", "[::1]:5000", true),
        ("http://auth.test/token", "registry.test", false),
        ("http://auth.test/token", "localhost.registry.test:5000", false),
        ("http://localhost.test/token", "registry.test", false),
        ("http://10.0.0.1/token", "10.0.0.1:5000", false),
        ("http://auth.test/token", "", false),
        ("http://localhost@auth.test/token", "registry.test", false),
        ("https://me:hunter2@auth.test/token", "registry.test", false),
        ("file:///etc/passwd", "registry.test", false),
        ("ftp://localhost/token", "registry.test", false),
        ("data:text/plain,hunter2", "registry.test", false),
        ("auth.test/token", "registry.test", false),
        ("", "registry.test", false),
    ];
    for (realm, host, is_fine) in rows {
        let wanted = TokenRequest {
            host: host.to_owned(),
            ..wanted(realm)
        };
        let outcome = check(&wanted);
        assert_eq!(outcome.is_ok(), is_fine, "{realm} {host}: {outcome:?}");
        assert!(!format!("{outcome:?}").contains("hunter2"));
    }
}

#[test]
fn requests_are_bounded() {
    let long = "x".repeat(MAX_SCOPES + 1);
    let realm = "https://auth.test/";
    let rows = [
        wanted(&format!("{realm}{long}")),
        TokenRequest {
            host: long.clone(),
            ..wanted(realm)
        },
        TokenRequest {
            service: long.clone(),
            ..wanted(realm)
        },
        TokenRequest {
            client_id: long.clone(),
            ..wanted(realm)
        },
        TokenRequest {
            scopes: vec![long.clone()],
            ..wanted(realm)
        },
        TokenRequest {
            scopes: vec![String::new(); MAX_SCOPES + 1],
            ..wanted(realm)
        },
    ];
    for wanted in rows {
        assert!(matches!(check(&wanted), Err(TokenError::Request(_))));
    }
}
