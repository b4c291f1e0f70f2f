//! The rules of connections and channels, one by one (`spec: wire §1 to §7, §12, §13`).

mod talk;

use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use mamba_codec::AMQPClass;
use mamba_codec::protocol::{access, basic, channel, confirm, connection, queue, tx};
use mamba_session::{DropReason, Scope, SessionState, TimerOutcome};
use mamba_types::{ChannelId, DeliveryTag, HardError, Limits, RecordMeta, SoftError, Violation};
use talk::*;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn dropped(reason: DropReason) -> TimerOutcome {
    TimerOutcome::Dropped(reason)
}

mod protocol_header {
    use super::*;

    #[track_caller]
    fn check(octets: &[u8], accepted: bool) {
        let mut talk = Talk::new(limits());
        talk.say(octets);
        if accepted {
            talk.happened(&[]);
            assert_eq!(talk.session.state(), SessionState::Starting);
            let frames = talk.heard();
            let [AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(start)))] =
                &frames[..]
            else {
                panic!("no start: {frames:?}");
            };
            assert_eq!((start.version_major, start.version_minor), (0, 9));
            assert_eq!(start.locales.as_bytes(), b"en_US");
            assert_eq!(
                start.mechanisms.as_bytes(),
                b"PLAIN AMQPLAIN EXTERNAL ANONYMOUS"
            );
        } else {
            talk.happened(&["wrong protocol"]);
            assert!(talk.session.is_finished() && talk.session.deadline().is_none());
            assert_eq!(talk.flush(), HEADER);
        }
    }

    #[test]
    fn table_of_headers() {
        check(b"AMQP\x00\x00\x09\x01", true);
        check(b"AMQP\x01\x01\x00\x09", true);
        check(b"AMQP\x01\x01\x08\x00", false);
        check(b"AMQP\x01\x01\x09\x01", false);
        check(b"AMQP\x00\x00\x0a\x00", false);
        check(b"AMQP\x03\x01\x00\x00", false);
        check(b"AMQP\x00\x01\x00\x00", false);
        check(b"GET / HTTP/1.1\r\n\r\n", false);
        check(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC], false);
    }

    #[test]
    fn nothing_is_sent_before_eight_octets_arrived() {
        let mut talk = Talk::new(limits());
        talk.say(b"HELLO!!").happened(&[]);
        assert!(talk.flush().is_empty());
        assert_eq!(talk.session.state(), SessionState::AwaitingHeader);
    }
}

mod handshake {
    use super::*;

    #[test]
    fn step_by_step() {
        let mut talk = Talk::new(limits());
        talk.say(HEADER).say(&login());
        talk.happened(&["login PLAIN guest:guest"]);
        assert_eq!(talk.session.state(), SessionState::Tuning);
        let tune = connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        };
        assert_eq!(
            talk.heard()[1],
            AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)))
        );
        talk.say(&tune_ok(4096, 10, 30)).happened(&[]);
        assert_eq!(talk.session.state(), SessionState::Opening);
        talk.say(&open()).happened(&["open /"]);
        assert_eq!(talk.session.state(), SessionState::Running);
        assert_eq!(talk.heard().len(), 1);
        assert_eq!(
            (
                talk.session.frame_max(),
                talk.session.channel_max(),
                talk.session.heartbeat_secs()
            ),
            (4096, 10, 30)
        );
        assert!(talk.session.capabilities().connection_blocked);
        assert!(!talk.session.capabilities().consumer_cancel_notify);
    }

    #[test]
    fn may_be_pipelined() {
        let mut talk = Talk::new(limits());
        let all = [
            handshake(131_072, 2047, 60),
            open_channel(1),
            publish(1, &[3]),
        ]
        .concat();
        talk.say(&all);
        assert_eq!(talk.events.len(), 4, "{:?}", talk.events);
        assert_eq!(talk.session.state(), SessionState::Running);
    }

    #[test]
    fn waits_for_the_driver() {
        let mut talk = Talk::new(limits());
        talk.answers = Answers::None;
        talk.say(&handshake(131_072, 2047, 60));
        talk.happened(&["login PLAIN guest:guest"]);
        talk.say(&open_channel(1)).happened(&[]);
        talk.session.login_accepted(&mut talk.out);
        talk.say(&[]).happened(&["open /"]);
        talk.say(&[]).happened(&[]);
        talk.session.open_accepted(&mut talk.out);
        talk.say(&[]).happened(&["channel 1"]);
    }

    #[test]
    fn has_ten_seconds() {
        let mut talk = Talk::new(limits());
        assert_eq!(talk.wait(secs(9)), TimerOutcome::Nothing);
        talk.say(HEADER)
            .say(&login())
            .say(&tune_ok(131_072, 2047, 0));
        assert_eq!(talk.wait(secs(1)), dropped(DropReason::HandshakeTimeout));
        assert!(talk.session.is_finished());
    }

    #[test]
    fn initial_frame_limit() {
        let mut talk = Talk::new(limits());
        talk.say(HEADER).flush();
        talk.say(&[1, 0, 0, 0, 0, 0x20, 1]);
        talk.happened(&[
            "closing 501 FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,8193,8184}",
        ]);
        assert!(talk.flush().is_empty(), "told nothing");
        assert_eq!(talk.wait(secs(2)), TimerOutcome::Nothing);
        assert_eq!(talk.wait(secs(1)), dropped(DropReason::Refused));
    }

    #[test]
    fn silent_before_opening() {
        for octets in [
            open(),
            open_channel(1),
            body_frame(0, 1),
            raw_frame(1, 0, &[0, 10, 0, 11, 7]),
            tune_ok(131_072, 2047, 60),
        ] {
            let mut talk = Talk::new(limits());
            talk.say(HEADER).flush();
            talk.say(&octets);
            assert_eq!(talk.events.len(), 1);
            assert_eq!(talk.session.state(), SessionState::Refused);
            assert!(talk.flush().is_empty());
            talk.say(&login());
            assert_eq!(talk.events.len(), 1, "input is ignored");
            assert_eq!(talk.wait(secs(3)), dropped(DropReason::Refused));
        }
    }

    #[test]
    fn channel_zero_methods_out_of_place() {
        let mut talk = Talk::new(limits());
        talk.say(HEADER)
            .say(&login())
            .say(&tune_ok(131_072, 2047, 60));
        talk.flush();
        talk.say(&login());
        assert_eq!(
            talk.closed(),
            "0: 504 CHANNEL_ERROR - unexpected method in connection state opening 10/11"
        );
        let mut talk = Talk::running(limits());
        talk.say(&close_ok());
        assert_eq!(
            talk.closed(),
            "0: 504 CHANNEL_ERROR - unexpected method in connection state running 10/51"
        );
        let mut talk = Talk::running(limits());
        talk.say(&open_channel(0));
        assert_eq!(
            talk.closed(),
            "0: 504 CHANNEL_ERROR - unexpected method in connection state running 20/10"
        );
    }

    #[test]
    fn open_can_be_refused() {
        let mut talk = Talk::new(limits());
        talk.say(HEADER)
            .say(&login())
            .say(&tune_ok(131_072, 2047, 60));
        talk.flush();
        talk.answers = Answers::None;
        talk.say(&open());
        let violation = Violation::connection(HardError::NotAllowed, "vhost / not found");
        talk.session
            .close(&violation, 10, 40, talk.now, &mut talk.out);
        assert_eq!(
            talk.closed(),
            "0: 530 NOT_ALLOWED - vhost / not found 10/40"
        );
        assert_eq!(talk.session.state(), SessionState::Closing);
    }

    #[test]
    fn no_channel_frames_before_open() {
        let mut talk = Talk::new(limits());
        talk.say(HEADER)
            .say(&login())
            .say(&tune_ok(131_072, 2047, 60));
        talk.flush();
        talk.say(&open_channel(1));
        assert_eq!(
            talk.closed(),
            "0: 505 UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>> 0/0"
        );
    }
}

mod tuning {
    use super::*;

    #[track_caller]
    fn check(frame_max: u32, channel_max: u16, expected: Option<&str>) {
        let mut talk = Talk::new(limits());
        talk.say(HEADER).say(&login());
        talk.flush();
        talk.say(&tune_ok(frame_max, channel_max, 60));
        match expected {
            Some(text) => assert_eq!(talk.closed(), format!("0: 530 NOT_ALLOWED - {text} 10/30")),
            None => assert!(talk.flush().is_empty()),
        }
    }

    #[test]
    fn table_of_values() {
        check(131_072, 2047, None);
        check(4096, 1, None);
        check(
            4095,
            2047,
            Some("negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"),
        );
        check(
            131_073,
            2047,
            Some("negotiated frame_max = 131073 is higher than the maximum allowed value (131072)"),
        );
        check(
            0,
            2047,
            Some("negotiated frame_max = 0 is higher than the maximum allowed value (131072)"),
        );
        check(
            131_072,
            2048,
            Some("negotiated channel_max = 2048 is higher than the maximum allowed value (2047)"),
        );
        check(
            131_072,
            0,
            Some(
                "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
            ),
        );
    }

    #[test]
    fn channel_max_limits_the_count_not_the_number() {
        let mut talk = Talk::new(limits());
        talk.say(&handshake(131_072, 2, 60))
            .say(&open_channel(65_535))
            .say(&open_channel(7));
        assert_eq!(talk.session.channels_open(), 2);
        talk.flush();
        talk.say(&open_channel(8));
        assert_eq!(
            talk.closed(),
            "0: 530 NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2) 0/0"
        );
    }

    #[test]
    fn all_channels_can_be_open() {
        let mut talk = Talk::running(limits());
        for number in (1..=2047).rev() {
            talk.say(&open_channel(number));
        }
        assert_eq!(talk.session.channels_open(), 2047);
        for number in 1..=2047 {
            talk.say(&publish(number, &[1])).say(&close_channel(number));
        }
        assert_eq!(talk.session.channels_open(), 0);
        assert_eq!(talk.events.len(), 3 * 2047);
    }
}

mod heartbeats {
    use super::*;

    fn running(interval: u16) -> Talk {
        let mut talk = Talk::new(limits());
        talk.say(&handshake(131_072, 2047, interval));
        talk.flush();
        talk
    }

    #[test]
    fn sent_after_half_an_interval_and_when_nothing_was_written() {
        let mut talk = running(10);
        assert_eq!(talk.wait(secs(4)), TimerOutcome::Nothing);
        assert!(talk.flush().is_empty());
        talk.wait(secs(1));
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Heartbeat],
            "the first one whatever was written"
        );
        talk.say(&raw_frame(8, 0, &[]));
        talk.wait(secs(5));
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Heartbeat],
            "its own octets are no traffic"
        );
        talk.say(&raw_frame(8, 0, &[]));
        talk.wait(secs(5));
        assert_eq!(talk.heard(), [AMQPFrame::Heartbeat]);
    }

    #[test]
    fn dead_after_two_looks_without_an_octet() {
        let mut talk = running(10);
        assert_eq!(talk.wait(secs(15)), TimerOutcome::Nothing);
        talk.say(&[8]);
        assert_eq!(talk.wait(secs(24)), TimerOutcome::Nothing);
        talk.flush();
        assert_eq!(
            talk.wait(secs(1)),
            dropped(DropReason::MissedHeartbeats { interval_secs: 10 })
        );
        assert!(talk.flush().is_empty(), "no close");
        assert!(talk.session.is_finished());
    }

    #[test]
    fn the_same_octets_again_are_no_sign_of_life() {
        let mut talk = running(10);
        talk.say(&[8, 0]);
        for _ in 0..29 {
            assert_eq!(talk.wait(secs(1)), TimerOutcome::Nothing);
            talk.say(&[]);
        }
        assert_ne!(talk.wait(secs(1)), TimerOutcome::Nothing);
    }

    #[test]
    fn zero_means_none() {
        let mut talk = running(0);
        assert_eq!(talk.session.deadline(), None);
        assert_eq!(talk.wait(secs(100_000)), TimerOutcome::Nothing);
        assert!(talk.flush().is_empty());
        talk.say(&raw_frame(8, 0, &[]))
            .happened(&["login PLAIN guest:guest", "open /"]);
    }

    #[test]
    fn paused_while_the_driver_does_not_read() {
        let mut talk = running(10);
        talk.session.pause_monitor();
        assert_eq!(talk.wait(secs(1000)), TimerOutcome::Nothing);
        assert!(!talk.flush().is_empty(), "sending goes on");
        talk.session.resume_monitor(talk.now);
        assert_eq!(talk.wait(secs(19)), TimerOutcome::Nothing);
        assert_ne!(talk.wait(secs(1)), TimerOutcome::Nothing);
    }

    #[test]
    fn on_another_channel_is_an_error() {
        let mut talk = Talk::with_channel();
        talk.say(&raw_frame(8, 1, &[]));
        assert_eq!(
            talk.closed(),
            "0: 505 UNEXPECTED_FRAME - type 8, all octets = <<>> 0/0"
        );
    }

    #[test]
    fn accepted_before_open() {
        let mut talk = Talk::new(limits());
        talk.say(HEADER).say(&raw_frame(8, 0, &[])).say(&login());
        talk.happened(&["login PLAIN guest:guest"]);
    }
}

mod sasl {
    use super::*;

    #[track_caller]
    fn check(mechanism: &str, response: &[u8], expected: &str) {
        let mut talk = Talk::new(limits());
        talk.say(HEADER).flush();
        talk.say(&start_ok(mechanism, response, &[]));
        talk.happened(&[expected]);
        if expected.starts_with("closing") {
            assert!(talk.flush().is_empty());
            assert_eq!(talk.wait(secs(3)), dropped(DropReason::Refused));
        }
    }

    const PLAIN_BAD: &str =
        "closing 502 SYNTAX_ERROR - the response for authentication mechanism PLAIN is malformed";

    #[test]
    fn plain() {
        check("PLAIN", b"\0guest\0guest", "login PLAIN guest:guest");
        check("PLAIN", b"\0u\0", "login PLAIN u:");
        check("PLAIN", b"guest\0guest", PLAIN_BAD);
        check("PLAIN", b"\0guest", PLAIN_BAD);
        check("PLAIN", b"\0guest\0gu\0est", PLAIN_BAD);
        check("PLAIN", b"", PLAIN_BAD);
        check("PLAIN", b"\0\xFF\0x", PLAIN_BAD);
    }

    #[test]
    fn amqplain() {
        let table = b"\x05LOGINS\0\0\0\x01u\x05otherI\0\0\0\x07\x08PASSWORDx\0\0\0\x01p";
        check("AMQPLAIN", table, "login AMQPLAIN u:p");
        let bad = "closing 502 SYNTAX_ERROR - the response for authentication mechanism AMQPLAIN is malformed";
        check("AMQPLAIN", b"\x05LOGINS\0\0\0\x01u", bad);
        check(
            "AMQPLAIN",
            b"\x05LOGINI\0\0\0\x01\x08PASSWORDS\0\0\0\x01p",
            bad,
        );
        check("AMQPLAIN", b"\x05LOGINS\0\0\0\x09u", bad);
    }

    #[test]
    fn others() {
        check("EXTERNAL", b"", "login external");
        check("ANONYMOUS", b"trace", "login anonymous");
        check(
            "plain",
            b"\0guest\0guest",
            "closing 503 COMMAND_INVALID - authentication mechanism 'plain' is not offered",
        );
    }

    #[test]
    fn refused_with_the_capability() {
        let mut talk = Talk::new(limits());
        talk.answers = Answers::None;
        talk.say(HEADER).flush();
        talk.say(&login());
        talk.session.login_refused(talk.now, &mut talk.out);
        assert_eq!(
            talk.closed(),
            "0: 403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
             For details see the broker logfile. 0/0"
        );
        assert_eq!(talk.wait(secs(2)), TimerOutcome::Nothing);
        assert_eq!(talk.wait(secs(1)), dropped(DropReason::Refused));
    }

    #[test]
    fn refused_with_the_capability_and_answered() {
        let mut talk = Talk::new(limits());
        talk.answers = Answers::None;
        talk.say(HEADER).say(&login());
        talk.session.login_refused(talk.now, &mut talk.out);
        talk.say(&close_ok());
        assert!(talk.session.is_finished());
    }

    #[test]
    fn refused_without_the_capability() {
        let mut talk = Talk::new(limits());
        talk.answers = Answers::None;
        talk.say(HEADER).flush();
        talk.say(&start_ok("PLAIN", b"\0a\0b", &[]));
        talk.session.login_refused(talk.now, &mut talk.out);
        assert!(talk.flush().is_empty());
        assert_eq!(talk.wait(secs(3)), dropped(DropReason::Refused));
    }

    #[test]
    fn update_secret() {
        let mut talk = Talk::running(limits());
        let update = connection::UpdateSecret {
            new_secret: "s3".into(),
            reason: "why".into(),
        };
        talk.say(&on_connection(connection::AMQPMethod::UpdateSecret(update)));
        talk.happened(&["secret s3"]);
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Method(
                0,
                AMQPClass::Connection(connection::AMQPMethod::UpdateSecretOk(
                    connection::UpdateSecretOk {}
                ))
            )]
        );
    }
}

mod blocked {
    use super::*;

    #[test]
    fn only_clients_with_the_capability_are_told() {
        let mut talk = Talk::running(limits());
        talk.session.blocked("low on disk", &mut talk.out);
        talk.session.unblocked(&mut talk.out);
        assert_eq!(talk.heard().len(), 2);

        let mut talk = Talk::new(limits());
        talk.say(HEADER).say(&start_ok("PLAIN", b"\0a\0b", &[]));
        talk.say(&tune_ok(131_072, 2047, 0)).say(&open());
        talk.flush();
        talk.session.blocked("low on disk", &mut talk.out);
        talk.session.unblocked(&mut talk.out);
        assert!(talk.flush().is_empty());
    }
}

mod frames {
    use super::*;

    #[test]
    fn broken_framing_ends_reading_and_drops_after_three_seconds() {
        let mut talk = Talk::with_channel();
        talk.say(&[1, 0, 1, 0xFF, 0, 0, 0]);
        assert_eq!(
            talk.closed(),
            "0: 501 FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4278190080,131064} 0/0"
        );
        talk.say(&close_ok());
        assert!(!talk.session.is_finished());
        assert_eq!(talk.wait(secs(3)), dropped(DropReason::Refused));
    }

    #[test]
    fn content_on_channel_zero() {
        let mut talk = Talk::running(limits());
        talk.say(&body_frame(0, 2));
        assert_eq!(
            talk.closed(),
            "0: 505 UNEXPECTED_FRAME - type 3, all octets = <<\"bb\">> 0/0"
        );
    }

    #[test]
    fn methods_that_cannot_be_decoded() {
        let mut talk = Talk::with_channel();
        talk.say(&raw_frame(1, 1, &[0, 60, 0, 80, 1]));
        assert_eq!(
            talk.closed(),
            "0: 501 FRAME_ERROR - cannot decode <<1>> 60/80"
        );
        let mut talk = Talk::with_channel();
        talk.say(&raw_frame(1, 1, &[0, 99, 0, 80]));
        assert_eq!(
            talk.closed(),
            "0: 540 NOT_IMPLEMENTED - unknown method: class 99, method 80 99/80"
        );
    }
}

mod content {
    use super::*;

    #[test]
    fn whole_and_in_pieces() {
        let mut talk = Talk::with_channel();
        talk.say(&publish(1, &[]))
            .happened(&["publish 1 ex>key 10 header 15 body 0 0"]);
        talk.say(&publish(1, &[2]))
            .happened(&["publish 1 ex>key 10 header 15 body 2 c40"]);
        talk.say(&publish(1, &[1, 0, 1]))
            .happened(&["publish 1 ex>key 10 header 15 body 2 c40"]);
        for octet in publish(1, &[2]) {
            talk.say(&[octet]);
        }
        talk.happened(&["publish 1 ex>key 10 header 15 body 2 c40"]);
        assert_eq!(talk.session.unfinished_bytes(), 0);
    }

    #[test]
    fn frames_of_other_channels_and_heartbeats_may_come_between() {
        let mut talk = Talk::with_channel();
        talk.say(&open_channel(2)).happened(&["channel 2"]);
        let mixed = [
            publish_method(1),
            raw_frame(8, 0, &[]),
            publish_method(2),
            header_frame(1, 2),
            header_frame(2, 1),
            body_frame(1, 1),
            body_frame(2, 1),
            body_frame(1, 1),
        ];
        talk.say(&mixed.concat()).happened(&[
            "publish 2 ex>key 10 header 15 body 1 62",
            "publish 1 ex>key 10 header 15 body 2 c40",
        ]);
    }

    #[track_caller]
    fn check(octets: &[Vec<u8>], expected: &str) {
        let mut talk = Talk::with_channel();
        talk.say(&octets.concat());
        assert_eq!(talk.closed(), format!("0: {expected}"));
        assert_eq!(talk.session.unfinished_bytes(), 0);
        talk.events.clear();
        talk.say(&publish(1, &[1])).happened(&[]);
    }

    #[test]
    fn table_of_violations() {
        let no_method =
            "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead 0/0";
        check(&[header_frame(1, 1)], no_method);
        check(&[body_frame(1, 1)], no_method);
        check(&[publish(1, &[1]), body_frame(1, 1)], no_method);
        check(&[header_frame(2, 1)], no_method);
        let no_header = "505 UNEXPECTED_FRAME - expected content header for class 60, \
                         got non content header frame instead 60/40";
        check(&[publish_method(1), publish_method(1)], no_header);
        check(&[publish_method(1), close_channel(1)], no_header);
        check(&[publish_method(1), body_frame(1, 1)], no_header);
        let weight = raw_frame(2, 1, &[0, 60, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        check(&[publish_method(1), weight], no_header);
        let class = raw_frame(2, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        check(
            &[publish_method(1), class],
            "505 UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead 60/40",
        );
        let no_body = "505 UNEXPECTED_FRAME - expected content body, got non content body frame instead 60/40";
        check(
            &[publish_method(1), header_frame(1, 1), publish_method(1)],
            no_body,
        );
        check(
            &[publish_method(1), header_frame(1, 1), header_frame(1, 1)],
            no_body,
        );
        check(
            &[publish_method(1), header_frame(1, 536_870_913)],
            "501 FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912 60/40",
        );
        let excess = "501 FRAME_ERROR - content body frame exceeds remaining content size 60/40";
        check(
            &[publish_method(1), header_frame(1, 3), body_frame(1, 4)],
            excess,
        );
        check(
            &[
                publish_method(1),
                header_frame(1, 3),
                body_frame(1, 2),
                body_frame(1, 2),
            ],
            excess,
        );
        check(
            &[publish_method(1), raw_frame(2, 1, &[0, 60])],
            "501 FRAME_ERROR - type 2, all octets = <<0,60>>: unknown_frame 0/0",
        );
    }

    #[test]
    fn too_large_is_counted_and_not_kept() {
        let mut talk = Talk::running(Limits {
            message_size_max: 1000,
            ..limits()
        });
        talk.say(&open_channel(1)).events.clear();
        talk.say(&publish(1, &[600, 401]));
        talk.happened(&["publish 1 ex>key 10 header 0 body 1001 too large 0"]);
        assert!(talk.held_max < 600);
        talk.say(&publish(1, &[600, 400]));
        assert!(talk.events[0].starts_with("publish 1 ex>key 10 header 15 body 1000 "));
    }

    #[test]
    fn a_lie_about_the_size_takes_no_memory() {
        let mut talk = Talk::with_channel();
        talk.say(&publish_method(1))
            .say(&header_frame(1, 16_000_000));
        assert!(talk.session.unfinished_bytes() < 1000);
        talk.say(&body_frame(1, 100));
        assert!(talk.session.unfinished_bytes() < 2000);
        for _ in 0..100 {
            talk.say(&body_frame(1, 100_000));
            let arrived = 10_000_000;
            assert!(talk.session.unfinished_bytes() < 2 * arrived + 2000);
        }
    }

    #[test]
    fn unfinished_messages_together_have_a_limit() {
        let limits = Limits {
            unfinished_bytes_max: 3_000_000,
            message_size_max: 1_000_000,
            ..limits()
        };
        let mut talk = Talk::running(limits);
        for number in 1..=10 {
            talk.say(&open_channel(number)).say(&publish_method(number));
            talk.say(&header_frame(number, 1_000_000));
        }
        talk.flush();
        let mut rounds = 0;
        while talk.session.state() == SessionState::Running {
            for number in 1..=10 {
                talk.say(&body_frame(number, 50_000));
            }
            rounds += 1;
            assert!(rounds < 10);
        }
        assert!(talk.held_max < 3_000_000 + 1_000_000);
        let text = talk.closed();
        assert!(
            text.starts_with(
                "0: 506 RESOURCE_ERROR - unfinished messages on this connection hold "
            ) && text.contains("at most 3000000 are allowed"),
            "{text}"
        );
        assert_eq!(talk.session.unfinished_bytes(), 0);
    }

    #[test]
    fn an_assembled_content_becomes_a_message_without_its_meta_data_being_lost() {
        let mut talk = Talk::with_channel();
        talk.input = publish(1, &[70_000, 50_000]);
        let received = talk.session.receive(&talk.input, talk.now, &mut talk.out);
        let Some(mamba_session::Event::Publish(ChannelId(1), publish)) = received.event else {
            panic!("no publish");
        };
        let mamba_session::Content::Assembled(assembled) = publish.content else {
            panic!("not assembled");
        };
        let meta = RecordMeta {
            persistent: true,
            priority: Some(3),
            dead_lettered: false,
            expiration_ms: None,
            accepted_at_ms: 99,
            not_before: false,
            died: None,
        };
        let message = assembled.into_message(meta);
        assert_eq!(
            mamba_types::Message::check(message.record()),
            Ok(message.record_len())
        );
        assert_eq!(
            (message.exchange(), message.routing_key()),
            (&b"ex"[..], &b"key"[..])
        );
        assert_eq!((message.body_len(), message.header().len()), (120_000, 15));
        assert!(message.persistent() && message.body().iter().all(|octet| *octet == b'b'));
        assert_eq!(
            (message.priority(), message.accepted_at_ms()),
            (Some(3), 99)
        );
    }
}

mod channels {
    use super::*;

    #[track_caller]
    fn check(method: AMQPClass, expected: &str) {
        let mut talk = Talk::with_channel();
        talk.method(1, method);
        if expected.starts_with("0: ") {
            assert_eq!(talk.closed(), expected);
        } else {
            talk.happened(&[expected]);
            assert!(talk.flush().is_empty());
        }
    }

    #[test]
    fn first_method_must_be_open() {
        let mut talk = Talk::running(limits());
        talk.method(1, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})));
        assert_eq!(
            talk.closed(),
            "0: 504 CHANNEL_ERROR - expected 'channel.open' 90/10"
        );
        let mut talk = Talk::running(limits());
        talk.say(&publish_method(1));
        assert_eq!(
            talk.closed(),
            "0: 504 CHANNEL_ERROR - expected 'channel.open' 60/40"
        );
    }

    #[test]
    fn open_is_answered_at_once() {
        let mut talk = Talk::running(limits());
        talk.say(&open_channel(3)).happened(&["channel 3"]);
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Method(
                3,
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
            )]
        );
    }

    #[test]
    fn second_open() {
        check(
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
            "0: 504 CHANNEL_ERROR - second 'channel.open' seen 20/10",
        );
    }

    #[test]
    fn methods_for_the_driver() {
        check(
            AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})),
            "method 1 90/20",
        );
        check(
            AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
                nowait: true,
            })),
            "method 1 85/10",
        );
        check(
            AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind::default())),
            "method 1 50/50",
        );
        check(
            AMQPClass::Basic(basic::AMQPMethod::Recover(basic::Recover { requeue: true })),
            "method 1 60/110",
        );
        check(
            AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
                delivery_tag: 7,
                multiple: true,
            })),
            "ack 1 7 multiple 80",
        );
        check(
            AMQPClass::Basic(basic::AMQPMethod::Reject(basic::Reject {
                delivery_tag: 7,
                requeue: true,
            })),
            "failed 1 7 90",
        );
        check(
            AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
                delivery_tag: 7,
                multiple: true,
                requeue: false,
            })),
            "discard 1 7 multiple 120",
        );
    }

    #[test]
    fn methods_of_servers_are_refused() {
        let refused = |ids: &str| format!("0: 503 COMMAND_INVALID - unimplemented method {ids}");
        check(
            AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk {
                message_count: 1,
            })),
            &refused("50/31"),
        );
        check(
            AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver::default())),
            &refused("60/60"),
        );
        check(
            AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk {
                active: true,
            })),
            &refused("20/21"),
        );
        check(
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
            &refused("20/41"),
        );
        check(
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})),
            &refused("10/51"),
        );
    }

    #[test]
    fn flow() {
        let mut talk = Talk::with_channel();
        talk.say(&on_channel(
            1,
            channel::AMQPMethod::Flow(channel::Flow { active: true }),
        ));
        talk.happened(&[]);
        let flow_ok = channel::FlowOk { active: true };
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Method(
                1,
                AMQPClass::Channel(channel::AMQPMethod::FlowOk(flow_ok))
            )]
        );
        talk.say(&on_channel(
            1,
            channel::AMQPMethod::Flow(channel::Flow { active: false }),
        ));
        assert_eq!(talk.closed(), "0: 540 NOT_IMPLEMENTED - active=false 20/20");
    }

    #[test]
    fn access_request_and_cancel_ok_are_the_sessions_own() {
        let mut talk = Talk::with_channel();
        talk.method(
            1,
            AMQPClass::Access(access::AMQPMethod::Request(access::Request::default())),
        );
        let cancel_ok = basic::CancelOk {
            consumer_tag: "c".into(),
        };
        talk.method(1, AMQPClass::Basic(basic::AMQPMethod::CancelOk(cancel_ok)));
        talk.happened(&[]);
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Method(
                1,
                AMQPClass::Access(access::AMQPMethod::RequestOk(access::RequestOk {}))
            )]
        );
    }
}

mod closing {
    use super::*;

    fn missing() -> Violation {
        Violation::channel(SoftError::NotFound, "no queue")
    }

    #[test]
    fn client_closes_a_channel() {
        let mut talk = Talk::with_channel();
        talk.say(&close_channel(1)).happened(&["close channel 1"]);
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Method(
                1,
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
            )]
        );
        talk.say(&open_channel(1)).happened(&["channel 1"]);
    }

    #[test]
    fn server_closes_a_channel() {
        let mut talk = Talk::with_channel();
        let scope = talk
            .session
            .fail(ChannelId(1), &missing(), 50, 10, talk.now, &mut talk.out);
        assert_eq!(scope, Scope::Channel);
        assert_eq!(talk.closed(), "1: 404 NOT_FOUND - no queue 50/10");
        // Everything is thrown away, also what would be wrong elsewhere.
        talk.say(&publish(1, &[3, 4]))
            .say(&open_channel(1))
            .say(&body_frame(1, 3))
            .happened(&[]);
        assert!(talk.flush().is_empty());
        talk.say(&close_channel(1)).happened(&[]);
        assert_eq!(talk.heard().len(), 1, "close-ok");
        assert_eq!(talk.session.channels_open(), 1);
        talk.say(&channel_close_ok(1));
        assert_eq!(talk.session.channels_open(), 0);
        talk.say(&open_channel(1)).happened(&["channel 1"]);
    }

    #[test]
    fn server_closes_a_channel_in_the_middle_of_a_content() {
        let mut talk = Talk::with_channel();
        talk.say(&publish_method(1))
            .say(&header_frame(1, 5))
            .say(&body_frame(1, 2));
        talk.session
            .channel_error(ChannelId(1), &missing(), 0, 0, &mut talk.out);
        assert_eq!(talk.session.unfinished_bytes(), 0);
        talk.say(&body_frame(1, 3))
            .say(&channel_close_ok(1))
            .happened(&[]);
        assert_eq!(talk.session.channels_open(), 0);
    }

    #[test]
    fn errors_on_closed_channels_are_not_written() {
        let mut talk = Talk::with_channel();
        for number in [1, 1, 2] {
            talk.session
                .channel_error(ChannelId(number), &missing(), 0, 0, &mut talk.out);
        }
        assert_eq!(talk.heard().len(), 1);
    }

    #[test]
    fn client_closes_the_connection() {
        let mut talk = Talk::with_channel();
        talk.say(&close()).happened(&["close connection"]);
        assert_eq!(
            talk.heard(),
            [AMQPFrame::Method(
                0,
                AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
            )]
        );
        assert_eq!(talk.session.state(), SessionState::Closed);
        assert!(!talk.session.is_finished(), "the client closes the socket");
        talk.say(&publish(1, &[1])).happened(&[]);
        assert_eq!(talk.wait(secs(29)), TimerOutcome::Nothing);
        assert_eq!(talk.wait(secs(1)), dropped(DropReason::ClosingTimeout));
    }

    #[test]
    fn server_closes_the_connection() {
        let mut talk = Talk::with_channel();
        let forced = Violation::connection(HardError::ConnectionForced, "bye");
        talk.session.close(&forced, 0, 0, talk.now, &mut talk.out);
        talk.session.close(&forced, 0, 0, talk.now, &mut talk.out);
        assert_eq!(talk.closed(), "0: 320 CONNECTION_FORCED - bye 0/0");
        talk.say(&publish(1, &[1]))
            .say(&body_frame(9, 1))
            .happened(&[]);
        talk.say(&close()).happened(&[]);
        assert_eq!(talk.heard().len(), 1, "close-ok");
        talk.say(&close_ok());
        assert!(talk.session.is_finished());
    }

    #[test]
    fn grace_is_the_heartbeat_interval_up_to_thirty_seconds() {
        for (interval, grace) in [(0, 30), (10, 10), (30, 30), (600, 30)] {
            let mut talk = Talk::new(limits());
            talk.say(&handshake(131_072, 2047, interval))
                .say(&body_frame(0, 0));
            assert_eq!(talk.session.state(), SessionState::Closing);
            assert_eq!(talk.wait(secs(grace - 1)), TimerOutcome::Nothing);
            assert_eq!(talk.wait(secs(1)), dropped(DropReason::ClosingTimeout));
        }
    }

    #[test]
    fn soft_errors_can_close_the_connection() {
        let mut talk = Talk::with_channel();
        let refused = Violation::ConnectionSoft {
            code: SoftError::AccessRefused,
            text: "no".to_owned(),
        };
        let scope = talk
            .session
            .fail(ChannelId(1), &refused, 0, 0, talk.now, &mut talk.out);
        assert_eq!(scope, Scope::Connection);
        assert_eq!(talk.closed(), "0: 403 ACCESS_REFUSED - no 0/0");
    }

    #[test]
    fn settlements_after_a_close_are_thrown_away() {
        let mut talk = Talk::with_channel();
        talk.session
            .channel_error(ChannelId(1), &missing(), 0, 0, &mut talk.out);
        let mut ack = Vec::new();
        mamba_codec::write_ack(&mut ack, ChannelId(1), DeliveryTag(1), false);
        talk.say(&ack).happened(&[]);
    }
}
