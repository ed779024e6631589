// SPDX-License-Identifier: Apache-2.0
//! The conformance driver of the Rust binding: requests on standard input, answers on standard output, as
//! bindings/conformance/README.md has them; `iokv-conformance load ...` decodes for scripts/bench as bench/load.cpp does.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::time::Duration;

use iokv::{ConnectOptions, Connection, Error, LogitBias, OpenOptions, Sampling, StepOptions};

mod layout;

struct Request<'l> {
    verb: &'l str,
    name: &'l str,
    words: HashMap<&'l str, &'l str>,
}

impl<'l> Request<'l> {
    fn of(line: &'l str) -> Self {
        let mut parts = line.split_whitespace();
        let verb = parts.next().expect("a verb");
        let (mut name, mut words) = ("", HashMap::new());
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) => drop(words.insert(key, value)),
                None => name = part,
            }
        }
        Self { verb, name, words }
    }

    fn number<T: std::str::FromStr + Default>(&self, key: &str) -> T {
        self.words
            .get(key)
            .map_or_else(T::default, |word| word.parse().ok().expect("a number"))
    }

    fn tokens(&self, key: &str) -> Vec<i32> {
        let list = self.words.get(key).unwrap_or(&"");
        list.split(',')
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().expect("a token"))
            .collect()
    }

    fn lists<T: std::str::FromStr>(&self, key: &str) -> Vec<Vec<T>> {
        let word = self.words.get(key).unwrap_or(&"");
        let number = |text: &str| text.parse().ok().expect("a number");
        word.split(';')
            .filter(|part| !part.is_empty())
            .map(|part| part.split(',').map(number).collect())
            .collect()
    }

    fn logit_bias(&self) -> Vec<LogitBias> {
        let pairs = self.lists::<f32>("logit_bias");
        pairs
            .iter()
            .map(|pair| LogitBias {
                token: pair[0] as i32,
                bias: pair[1],
            })
            .collect()
    }

    fn sampling<'a>(&self, logit_bias: &'a [LogitBias]) -> Option<Sampling<'a>> {
        let given = SAMPLING.iter().any(|key| self.words.contains_key(key));
        given.then(|| Sampling {
            temperature: self.number("temperature"),
            top_p: self.number("top_p"),
            top_k: self.number("top_k"),
            seed: self.number("seed"),
            min_p: self.number("min_p"),
            typical_p: self.number("typical_p"),
            repetition_penalty: self.number("repetition_penalty"),
            presence_penalty: self.number("presence_penalty"),
            frequency_penalty: self.number("frequency_penalty"),
            repetition_from: self.number("repetition_from"),
            frequency_from: self.number("frequency_from"),
            logit_bias,
        })
    }

    /// Calls `use_it` with the options of a step.
    fn step<T>(&self, use_it: impl FnOnce(&StepOptions<'_>) -> T) -> T {
        let (stops, masks) = (
            self.lists::<i32>("stop_sequences"),
            self.lists::<u32>("masks"),
        );
        let stops: Vec<&[i32]> = stops.iter().map(Vec::as_slice).collect();
        let masks: Vec<&[u32]> = masks.iter().map(Vec::as_slice).collect();
        use_it(&StepOptions {
            tokens: &self.tokens("tokens"),
            max_tokens: self.number("max_tokens"),
            stop_tokens: &self.tokens("stop_tokens"),
            stop_sequences: &stops,
            sampling: self.sampling(&self.logit_bias()),
            top_logprobs: self.number("top_logprobs"),
            masks: &masks,
            each: self.number::<u8>("each") != 0,
            logits: self.number::<u8>("logits") != 0,
            priority: self.number("priority"),
            deadline_ns: self.number("deadline_ns"),
        })
    }

    fn duration(&self, key: &str) -> Option<Duration> {
        u64::try_from(self.number::<i64>(key))
            .ok()
            .map(Duration::from_nanos)
    }
}

const SAMPLING: [&str; 12] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "repetition_from",
    "frequency_from",
    "logit_bias",
];

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

enum Failure {
    Call(Error),
    Connect(iokv::ConnectError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Call(error)
    }
}

fn connect(request: &Request<'_>) -> Result<Connection, Failure> {
    let options = ConnectOptions {
        socket_path: request.words.get("socket").map(Into::into),
        name: request.words.get("name").map(ToString::to_string),
        timeout: request.duration("timeout_ns"),
        submission_entries: request.number("submission_entries"),
        completion_entries: request.number("completion_entries"),
        arena_bytes: request.number("arena_bytes"),
        result_bytes: request.number("result_bytes"),
        ..Default::default()
    };
    Connection::connect(&options).map_err(Failure::Connect)
}

fn info(client: &Connection) -> String {
    let i = client.info();
    format!(
        "protocol_version={} daemon_instance={} client_id={} vocabulary={} max_context={} layers={} hidden={} heads={} \
         kv_heads={} head_dim={} begin_token={} end_token_count={} max_sequences={} max_operations={} \
         max_step_tokens={} max_stop_tokens={} submission_entries={} completion_entries={} pool_tokens={} features={} \
         model_digest={} tokenizer_digest={} model_name={}",
        i.protocol_version,
        i.daemon_instance,
        i.client_id,
        i.vocabulary,
        i.max_context,
        i.layers,
        i.hidden,
        i.heads,
        i.kv_heads,
        i.head_dim,
        i.begin_token.unwrap_or(-1),
        i.end_tokens.len(),
        i.max_sequences,
        i.max_operations,
        i.max_step_tokens,
        i.max_stop_tokens,
        i.submission_entries,
        i.completion_entries,
        i.pool_tokens,
        i.features,
        hex(&i.model_digest),
        hex(&i.tokenizer_digest),
        hex(i.model_name.as_bytes()),
    )
}

fn reap(request: &Request<'_>, client: &mut Connection) -> Result<String, Error> {
    client.reaper.reap(request.number("capacity"), request.duration("timeout_ns"), |c| {
        let logits: Vec<u8> = c.logits.iter().flatten().flat_map(|value| value.to_ne_bytes()).collect();
        let entry = |one: &iokv::TokenLogprob| [one.token.to_ne_bytes(), one.logprob.to_ne_bytes()].concat();
        let top: Vec<u8> = c.top.iter().flatten().flat_map(entry).collect();
        println!(
            "completion user_data={} operation={} sequence={} result={} flags={} token={} logprob={} index={} \
             length={} dense_ns={} logits={} top={}",
            c.user_data, c.operation, c.sequence, c.result, c.flags, c.token, c.logprob, c.index, c.length,
            c.times().map_or(0, |times| times.dense.as_nanos()), hex(&logits), hex(&top),
        );
    })?;
    Ok(String::new())
}

fn call(request: &Request<'_>, client: &mut Connection) -> Result<String, Error> {
    let (sequence, user_data) = (request.number("sequence"), request.number("user_data"));
    let operation = |id: u64| format!("operation={id}");
    let opened =
        |made: iokv::Opened| format!("sequence={} operation={}", made.sequence, made.operation);
    let submitter = &mut client.submitter;
    Ok(match request.verb {
        "info" => info(client),
        "open" => {
            let logit_bias = request.logit_bias();
            let options = OpenOptions {
                sampling: request.sampling(&logit_bias),
                priority: request.number("priority"),
                model: request.number("model"),
                adapter: request.number("adapter"),
            };
            opened(submitter.open(&options, user_data)?)
        }
        "step" => operation(request.step(|options| submitter.step(sequence, options, user_data))?),
        "fork" => opened(
            submitter.fork(
                sequence,
                request
                    .words
                    .get("tokens")
                    .map(|_| request.number("tokens")),
                user_data,
            )?,
        ),
        "truncate" => {
            operation(submitter.truncate(sequence, request.number("length"), user_data)?)
        }
        "cancel" => {
            let target = Some(request.number::<u64>("target")).filter(|target| *target != 0);
            operation(submitter.cancel(sequence, target, user_data)?)
        }
        "close" => operation(submitter.close(sequence, user_data)?),
        "nop" => operation(submitter.nop(user_data)?),
        "submit" => format!("count={}", submitter.submit()?),
        "outstanding" => format!("count={}", client.outstanding()),
        "wake" => client.waker().wake().map(|()| String::new())?,
        "reap" => reap(request, client)?,
        "generate" => {
            let sampled = request.step(|options| client.generate(sequence, options))?;
            format!(
                "tokens={}",
                sampled
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            )
        }
        "end_reason" => {
            let (error, line) = client.end_reason()?;
            format!("code={} line={}", error.code(), hex(line.as_bytes()))
        }
        "token_bytes" => format!(
            "bytes={}",
            hex(client.vocabulary()?.bytes(request.number("token"))?)
        ),
        "text" if request.number::<u8>("file") == 1 => {
            format!("bytes={}", hex(client.tokenizer_file()?))
        }
        "text" => format!("bytes={}", hex(client.chat_template()?)),
        "counters" => {
            let counters = client.counters()?;
            counters
                .iter()
                .map(|counter| format!("{}={} ", counter.name, counter.value))
                .collect()
        }
        verb => panic!("no such request: {verb}"),
    })
}

fn answer(
    request: &Request<'_>,
    clients: &mut HashMap<String, Connection>,
) -> Result<String, Failure> {
    match request.verb {
        "layout" => {
            layout::layout().iter().for_each(|line| println!("{line}"));
            Ok(String::new())
        }
        "connect" => {
            let client = connect(request)?;
            clients.insert(request.name.into(), client);
            Ok(String::new())
        }
        "disconnect" => {
            clients.remove(request.name);
            Ok(String::new())
        }
        // A connection that was ended does not exist in Rust, so nobody can call it.
        _ => Ok(call(
            request,
            clients.get_mut(request.name).ok_or(Error::Closed)?,
        )?),
    }
}

fn serve() {
    let mut clients = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input");
        match answer(&Request::of(&line), &mut clients) {
            Ok(rest) => println!("ok {rest}"),
            Err(Failure::Call(error)) => println!("error {} {error}", error.code()),
            Err(Failure::Connect(failed)) => println!("error {} {failed}", failed.error.code()),
        }
        std::io::stdout().flush().expect("standard output");
    }
}

/// What bench/load.cpp does, by `Client`, `Sequence` and `Operation`.
fn load(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let number = |i: usize| arguments[i].parse::<u32>();
    let (count, prompt_tokens, max_tokens, seed) = (number(1)?, number(2)?, number(3)?, number(4)?);
    let options = ConnectOptions {
        socket_path: Some((&arguments[0]).into()),
        timeout: None,
        ..Default::default()
    };
    let client = iokv::Client::connect(&options)?;
    let mut sequences = Vec::new();
    for s in 0..count {
        let token = |i: u64| {
            (u64::from(seed + s) * 7919 + i * 104729 + i * i) % u64::from(client.info().vocabulary)
        };
        let prompt: Vec<i32> = (0..u64::from(prompt_tokens))
            .map(|i| token(i) as i32)
            .collect();
        let sequence = client.open(&OpenOptions::default())?;
        sequence.generate(&prompt, 1)?;
        sequences.push(sequence);
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        let start_ns = monotonic_ns();
        let step = StepOptions {
            max_tokens,
            ..Default::default()
        };
        let operations = sequences
            .iter()
            .map(|sequence| sequence.step(&step))
            .collect::<Result<Vec<_>, _>>()?;
        let mut drawn = 0;
        for operation in operations {
            for token in operation {
                drawn += u64::from(token?.sampled());
            }
        }
        println!(
            "{{\"tokens\": {drawn}, \"start_ns\": {start_ns}, \"end_ns\": {}}}",
            monotonic_ns()
        );
        for sequence in &sequences {
            sequence.truncate(prompt_tokens + 1)?;
        }
    }
    Ok(())
}

fn monotonic_ns() -> u128 {
    // Only differences are looked at.
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START
        .get_or_init(std::time::Instant::now)
        .elapsed()
        .as_nanos()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("load") => load(&arguments[2..]),
        _ => {
            serve();
            Ok(())
        }
    }
}
