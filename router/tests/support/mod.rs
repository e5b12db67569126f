//! Payloads for tests, written as JSON.

#![allow(dead_code, reason = "each test uses some of it")]

use serde_json::Value;

/// `value` as MessagePack. A text that begins with `0x` is written as a byte string.
pub fn pack(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

/// The payload of a message with `events`.
pub fn payload(published: f64, events: &Value) -> Vec<u8> {
    pack(&serde_json::json!([published, events, null]))
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => rmp::encode::write_nil(out).expect("into memory"),
        Value::Bool(value) => rmp::encode::write_bool(out, *value).expect("into memory"),
        Value::Number(number) if number.is_u64() => drop(rmp::encode::write_uint(out, number.as_u64().expect("checked"))),
        Value::Number(number) if number.is_i64() => drop(rmp::encode::write_sint(out, number.as_i64().expect("checked"))),
        Value::Number(number) => rmp::encode::write_f64(out, number.as_f64().expect("a float")).expect("into memory"),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => {
                let bytes: Vec<u8> =
                    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal")).collect();
                rmp::encode::write_bin(out, &bytes).expect("into memory");
            }
            None => rmp::encode::write_str(out, text).expect("into memory"),
        },
        Value::Array(values) => {
            rmp::encode::write_array_len(out, values.len() as u32).expect("into memory");
            values.iter().for_each(|value| write(value, out));
        }
        Value::Object(entries) => {
            rmp::encode::write_map_len(out, entries.len() as u32).expect("into memory");
            for (key, value) in entries {
                rmp::encode::write_str(out, key).expect("into memory");
                write(value, out);
            }
        }
    }
}
