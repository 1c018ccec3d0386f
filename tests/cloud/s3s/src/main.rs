//! Serves a folder as S3 on a free port of this machine, until standard input ends: `s3s-server FOLDER KEY SECRET`.
//!
//! It prints its port. Requests must be signed with the key and the secret.

use std::io::Read;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, key, secret] = arguments.as_slice() else { panic!("expected FOLDER KEY SECRET") };
    let mut builder = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single(key.clone(), secret.clone()));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        // A client that goes away is no error of the server.
        tokio::spawn(async move { drop(connection.await) });
    }
}
