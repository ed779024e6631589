// SPDX-License-Identifier: Apache-2.0
//! Streams the text that follows some tokens: `cargo run --example stream 1 2 3`.

use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prompt = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<Vec<i32>, _>>()?;
    let client = iokv::Client::connect(&iokv::ConnectOptions::default())?;
    let (vocabulary, end_tokens) = (client.vocabulary()?, &client.info().end_tokens);
    let sequence = client.open(&iokv::OpenOptions::default())?;
    let step = iokv::StepOptions { tokens: &prompt, max_tokens: 64, stop_tokens: end_tokens, ..Default::default() };
    for token in sequence.step(&step)? {
        std::io::stdout().write_all(vocabulary.bytes(token?.token)?)?;
        std::io::stdout().flush()?;
    }
    Ok(())
}
