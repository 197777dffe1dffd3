package main

import (
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/hibiken/asynq"
)

// enqueue puts one task, or several alike, into a queue. It answers with what the client was told about each.
func enqueue(redis asynq.RedisConnOpt, arguments []string) (any, error) {
	flags := flag.NewFlagSet("enqueue", flag.ExitOnError)
	kind := flags.String("type", "interop", "of the task")
	payload := flags.String("payload", "{}", "of the task")
	count := flags.Int("count", 1, "`tasks` to enqueue")

	var options []asynq.Option
	text := func(name, help string, option func(string) asynq.Option) {
		flags.Func(name, help, func(value string) error {
			options = append(options, option(value))
			return nil
		})
	}
	length := func(name, help string, option func(time.Duration) asynq.Option) {
		flags.Func(name, help, func(value string) error {
			duration, err := time.ParseDuration(value)
			options = append(options, option(duration))
			return err
		})
	}
	instant := func(name, help string, option func(time.Time) asynq.Option) {
		flags.Func(name, help, func(value string) error {
			var seconds int64
			_, err := fmt.Sscan(value, &seconds)
			options = append(options, option(time.Unix(seconds, 0)))
			return err
		})
	}
	text("queue", "its `name`", asynq.Queue)
	text("id", "of the task", asynq.TaskID)
	text("group", "its `name`", asynq.Group)
	length("timeout", "`duration` it may run", asynq.Timeout)
	length("retention", "`duration` it is kept when completed", asynq.Retention)
	length("unique", "`duration` no other of its type and payload is accepted", asynq.Unique)
	length("process-in", "`duration` until it is due", asynq.ProcessIn)
	instant("deadline", "`unix seconds` by which it has to be done", asynq.Deadline)
	instant("process-at", "`unix seconds` at which it is due", asynq.ProcessAt)
	flags.Func("max-retry", "`retries` it may have", func(value string) error {
		var retries int
		_, err := fmt.Sscan(value, &retries)
		options = append(options, asynq.MaxRetry(retries))
		return err
	})
	headers := map[string]string{}
	flags.Func("header", "`NAME=VALUE`, may be repeated", func(value string) error {
		name, rest, found := strings.Cut(value, "=")
		if !found {
			return fmt.Errorf("no = in %q", value)
		}
		headers[name] = rest
		return nil
	})
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}

	client := asynq.NewClient(redis)
	defer client.Close()
	answers := make([]taskView, 0, *count)
	for range *count {
		info, err := client.Enqueue(asynq.NewTaskWithHeaders(*kind, []byte(*payload), headers), options...)
		if err != nil {
			return nil, err
		}
		answers = append(answers, viewOfTask(info))
	}
	return answers, nil
}
