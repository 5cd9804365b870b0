// Command conformance is the runner of the Go client: see clients/conformance/README.md. It does what it
// is told, one request a line, and says what came of it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// cancels is the time for a request to end that was cancelled.
const cancels = 10 * time.Second

// request is one line of the input.
type request struct {
	Do         string         `json:"do"`
	On         string         `json:"on"`
	Background string         `json:"background"`
	With       map[string]any `json:"with"`
}

// answer is one line of the output: one of result, error and broken.
type answer map[string]any

func broken(format string, about ...any) answer {
	return answer{"broken": fmt.Sprintf(format, about...)}
}

// task is a request that goes on by itself.
type task struct {
	cancel context.CancelFunc
	done   chan struct{}
	answer answer
}

func main() {
	r := newRunner()
	defer r.close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := out.Encode(r.answer(lines.Bytes())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
	}
}

func (r *runner) answer(line []byte) answer {
	asked := request{On: "main"}
	if err := json.Unmarshal(line, &asked); err != nil {
		return broken("%v", err)
	}
	given := fields{}
	for name, value := range asked.With {
		if value != nil {
			given[name] = value
		}
	}
	switch asked.Do {
	case "await":
		return r.await(given.text("name"), given.seconds("within"))
	case "cancel":
		if task, known := r.tasks[given.text("name")]; known {
			task.cancel()
		}
		return r.await(given.text("name"), cancels)
	}
	handler, known := handlers[asked.Do]
	if !known {
		return broken("there is no request %q", asked.Do)
	}
	if asked.Background == "" {
		return r.outcome(context.Background(), handler, asked.On, given)
	}
	ctx, cancel := context.WithCancel(context.Background())
	task := &task{cancel: cancel, done: make(chan struct{})}
	r.tasks[asked.Background] = task
	go func() {
		defer close(task.done)
		task.answer = r.outcome(ctx, handler, asked.On, given)
	}()
	return answer{"result": fields{}}
}

func (r *runner) await(name string, within time.Duration) answer {
	task, known := r.tasks[name]
	if !known {
		return broken("no request goes on as %q", name)
	}
	select {
	case <-task.done:
		task.cancel()
		return task.answer
	case <-time.After(within):
		return broken("%s has not ended", name)
	}
}

// outcome is what came of a request. What a handler cannot find or read is a panic of its own, and the
// step's.
func (r *runner) outcome(ctx context.Context, handler handler, on string, given fields) (result answer) {
	defer func() {
		if bug := recover(); bug != nil {
			result = broken("%v", bug)
		}
	}()
	if seconds, bounded := given["deadline"]; bounded {
		delete(given, "deadline")
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration(seconds))
		defer cancel()
	}
	told, err := handler(r, ctx, on, given)
	var refused refusal
	switch {
	case err == nil:
		return answer{"result": told}
	case errors.As(err, &refused):
		return answer{"error": fields{"type": "Refused", "message": refused.Error()}}
	}
	if told := toldError(err); told != nil {
		return answer{"error": told}
	}
	return broken("%v", err)
}
