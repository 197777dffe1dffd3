package main

import (
	"time"

	"github.com/hibiken/asynq"
)

// taskView is a TaskInfo with its own field names: bytes as text, times as unix seconds (0 for none), durations in
// seconds.
type taskView struct {
	*asynq.TaskInfo
	State, Payload, Result                             string
	LastFailedAt, Deadline, NextProcessAt, CompletedAt int64
	Timeout, Retention                                 float64
}

func viewOfTask(info *asynq.TaskInfo) taskView {
	return taskView{
		TaskInfo:      info,
		State:         info.State.String(),
		Payload:       string(info.Payload),
		Result:        string(info.Result),
		LastFailedAt:  unix(info.LastFailedAt),
		Deadline:      unix(info.Deadline),
		NextProcessAt: unix(info.NextProcessAt),
		CompletedAt:   unix(info.CompletedAt),
		Timeout:       info.Timeout.Seconds(),
		Retention:     info.Retention.Seconds(),
	}
}

// serverView is a ServerInfo, and workerView a WorkerInfo, in the same way.
type serverView struct {
	*asynq.ServerInfo
	Started       int64
	ActiveWorkers []workerView
}

type workerView struct {
	*asynq.WorkerInfo
	TaskPayload       string
	Started, Deadline int64
}

func viewOfServer(info *asynq.ServerInfo) serverView {
	return serverView{info, unix(info.Started), viewsOf(info.ActiveWorkers, viewOfWorker)}
}

func viewOfWorker(info *asynq.WorkerInfo) workerView {
	return workerView{info, string(info.TaskPayload), unix(info.Started), unix(info.Deadline)}
}

func viewsOf[Info, View any](infos []Info, viewOf func(Info) View) []View {
	views := make([]View, 0, len(infos))
	for _, info := range infos {
		views = append(views, viewOf(info))
	}
	return views
}

func unix(moment time.Time) int64 {
	if moment.IsZero() {
		return 0
	}
	return moment.Unix()
}
