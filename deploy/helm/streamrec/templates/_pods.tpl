{{- define "streamrec.fullname" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "streamrec.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "streamrec.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "streamrec.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "streamrec.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "streamrec.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "streamrec.claim" -}}
{{ .Values.snapshots.volume.existingClaim | default (printf "%s-snapshots" (include "streamrec.fullname" .)) }}
{{- end -}}

{{/* A container's variables: which file to read, and what comes from Secrets. */}}
{{- define "streamrec.env" -}}
- {name: STREAMREC_CONFIG, value: /etc/streamrec/config/streamrec.toml}
{{- with .Values.kafka.secret }}{{ if .name }}
{{- if .usernameKey }}
- name: STREAMREC_KAFKA__SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .usernameKey }}}}
{{- end }}
- name: STREAMREC_KAFKA__SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .passwordKey }}}}
{{- end }}{{ end }}
{{- with .Values.redis.secret }}{{ if and .name .urlKey }}
- name: STREAMREC_REDIS
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .urlKey }}}}
{{- end }}{{ end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
What all pods have. Takes (dict "root" $ "component" NAME "arguments" LIST "resources" MAP "config" NAME), and for what
runs until it is stopped "container" (probes and ports, as YAML), "snapshots" true where it reads or writes them, "account".
*/}}
{{- define "streamrec.pod" -}}
{{- $values := .root.Values -}}
{{- $redisFile := and $values.redis.secret.name (not $values.redis.secret.urlKey) -}}
{{- $onVolume := and .snapshots (not $values.snapshots.url) -}}
metadata:
  labels:
    {{- include "streamrec.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "streamrec.toml" .root | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .account }}
  automountServiceAccountToken: false
  enableServiceLinks: false  # a Service named streamrec would set STREAMREC_PORT, which is no setting
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- if .grace }}
  terminationGracePeriodSeconds: {{ .grace }}
  {{- end }}
  {{- if .restart }}
  restartPolicy: {{ .restart }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: {{ .component }}
      image: {{ printf "%s:%s" $values.image.repository ($values.image.tag | default .root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: {{ toJson .arguments }}
      env:
        {{- include "streamrec.env" .root | nindent 8 }}
      {{- with $values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .container }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: config, mountPath: /etc/streamrec/config, readOnly: true}
        - {name: compiled, mountPath: /var/cache/streamrec}
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /var/lib/streamrec}
        {{- if $onVolume }}
        - {name: snapshots, mountPath: /var/lib/streamrec/snapshots}
        {{- end }}
        {{- if $redisFile }}
        - {name: redis, mountPath: /etc/streamrec/redis, readOnly: true}
        {{- end }}
        {{- if $values.kafka.ca.secret }}
        - {name: kafka-ca, mountPath: /etc/streamrec/kafka-ca, readOnly: true}
        {{- end }}
        {{- with $values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ .config }}}
    - name: compiled  # NUMBA_CACHE_DIR of the image: loops are compiled once a pod
      emptyDir: {}
    - name: tmp
      emptyDir: {}
    - name: home  # tables that trends restores, and whatever libraries write
      emptyDir: {}
    {{- if $onVolume }}
    - name: snapshots
      persistentVolumeClaim: {claimName: {{ include "streamrec.claim" .root }}}
    {{- end }}
    {{- if $redisFile }}
    - name: redis
      secret:
        secretName: {{ $values.redis.secret.name }}
        defaultMode: 0440
        items: [{key: {{ $values.redis.secret.passwordKey }}, path: password}]
    {{- end }}
    {{- if $values.kafka.ca.secret }}
    - name: kafka-ca
      secret:
        secretName: {{ $values.kafka.ca.secret }}
        items: [{key: {{ $values.kafka.ca.key }}, path: ca.crt}]
    {{- end }}
    {{- with $values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if and $values.topologySpread.enabled .grace }}
  topologySpreadConstraints:
    {{- range $values.topologySpread.keys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "streamrec.selector" $.root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
    {{- end }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
{{- end -}}

{{/* Seconds for a pod to stop in: a last batch and the checkpoint, at most handover_s and 20 s more, and some to spare. */}}
{{- define "streamrec.grace" -}}
{{- $handover := 20 -}}
{{- with .Values.settings.checkpoints }}{{ with .handover_s }}{{ $handover = . }}{{ end }}{{ end -}}
{{ add (ceil $handover | int) 25 }}
{{- end -}}

{{/* Of a worker and a learner. Loops are compiled at the first start, 10 to 20 s on an idle core, and models are loaded. */}}
{{- define "streamrec.probes" -}}
ports:
  - {name: metrics, containerPort: {{ .Values.metrics.port }}}
startupProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}
