{{- define "dreambooth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Cut so that the longest suffix in use, -doctor-bucket, still fits 63 characters. */}}
{{- define "dreambooth.fullname" -}}
{{- $name := include "dreambooth.name" . }}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $default .Values.fullnameOverride | trunc 49 | trimSuffix "-" }}
{{- end }}

{{/* Objects without a namespace carry the release's in their name, so that releases in two namespaces do not collide. */}}
{{- define "dreambooth.clusterName" -}}
{{ include "dreambooth.fullname" . }}.{{ .Release.Namespace }}
{{- end }}

{{- define "dreambooth.serviceAccountName" -}}
{{- default (ternary (include "dreambooth.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "dreambooth.chartLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: dreambooth-operator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "dreambooth.instanceLabels" -}}
app.kubernetes.io/name: {{ include "dreambooth.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dreambooth.labels" -}}
{{ include "dreambooth.instanceLabels" . }}
{{ include "dreambooth.chartLabels" . }}
{{- end }}

{{/* What Deployment, Services and policies select; it must never change, a Deployment's selector cannot. */}}
{{- define "dreambooth.operatorSelector" -}}
{{ include "dreambooth.instanceLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Dict of context and image. A digest wins over the tag. */}}
{{- define "dreambooth.image" -}}
{{- with .context.Values.global.imageRegistry }}{{ trimSuffix "/" . }}/{{ end }}
{{- .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .context.Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "dreambooth.operatorImage" -}}
{{ include "dreambooth.image" (dict "context" . "image" .Values.image) }}
{{- end }}
{{- define "dreambooth.jobImage" -}}
{{ include "dreambooth.image" (dict "context" . "image" .Values.job.image) }}
{{- end }}

{{/* The operator's rights on what it watches; rights.py has the reason for each. */}}
{{- define "dreambooth.rules" -}}
- apiGroups: [dreambooth.dev]
  resources: [trainingjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [dreambooth.dev]
  resources: [trainingjobs/status]
  verbs: [patch]
- apiGroups: [dreambooth.dev]
  resources: [trainingjobs/finalizers] # OwnerReferencesPermissionEnforcement asks for it
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* Every setting of the operator; the doctor reads the same. */}}
{{- define "dreambooth.env" -}}
{{- $settings := dict
  "JOB_IMAGE" (include "dreambooth.jobImage" .)
  "JOB_PULL_POLICY" .Values.job.image.pullPolicy
  "JOB_PULL_SECRETS" (join "," .Values.job.imagePullSecrets)
  "NAMESPACES" (join "," .Values.watchNamespaces)
  "STORAGE_ENDPOINT" .Values.storage.endpoint
  "STORAGE_REGION" .Values.storage.region
  "STORAGE_CREDENTIALS_SECRET" .Values.storage.credentialsSecret
  "LEASE" (printf "%s/%s" .Release.Namespace (include "dreambooth.fullname" .))
  "PROGRESS_LISTEN" "0.0.0.0:8081"
  "PROGRESS_ADVERTISED_URL" (printf "http://%s.%s.svc:8081" (include "dreambooth.fullname" .) .Release.Namespace)
  "HEALTH_LISTEN" "0.0.0.0:8080"
  "WORKERS" (int .Values.workers)
  "RESYNC_SECONDS" (int .Values.resyncSeconds)
  "LOG_FORMAT" .Values.logFormat
}}
{{- range $name, $value := $settings }}
{{- with $value }}
- name: DREAMBOOTH_{{ $name }}
  value: {{ . | quote }}
{{- end }}
{{- end }}
- name: DREAMBOOTH_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: DREAMBOOTH_POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}

{{/* The pod's token, mounted where clients look, without the automatic mount: this says who has one and for how long. */}}
{{- define "dreambooth.tokenVolume" -}}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}
{{- define "dreambooth.tokenMount" -}}
- {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "dreambooth.pullSecrets" -}}
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}

{{/* Namespaces whose training pods get a NetworkPolicy, as a JSON list. */}}
{{- define "dreambooth.policyNamespaces" -}}
{{ default .Values.watchNamespaces .Values.networkPolicy.namespaces | toJson }}
{{- end }}

{{/* ipBlock peers of a list of CIDRs. "Everywhere" never means the link-local addresses, where clouds hand out keys. */}}
{{- define "dreambooth.ipBlocks" -}}
{{- $except := dict "0.0.0.0/0" (list "169.254.0.0/16") "::/0" (list "fe80::/10" "fd00:ec2::254/128") }}
{{- range . }}
- ipBlock:
    cidr: {{ . | quote }}
    {{- with get $except . }}
    except: {{ toJson . }}
    {{- end }}
{{- end }}
{{- end }}

{{/* An empty list of peers would mean everybody, so without peers there is no rule. */}}
{{- define "dreambooth.dnsEgress" -}}
{{- with .Values.networkPolicy.dns }}
- to:
    {{- toYaml . | nindent 4 }}
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}
{{- end }}

{{/* The ports of the bucket server, as a JSON list. */}}
{{- define "dreambooth.storagePorts" -}}
{{- $host := get (urlParse .Values.storage.endpoint) "host" }}
{{- $given := regexFind ":[0-9]+$" $host | trimPrefix ":" }}
{{- $default := ternary 80 443 (hasPrefix "http://" .Values.storage.endpoint) }}
{{- default (list (int (default $default $given))) .Values.networkPolicy.storage.ports | toJson }}
{{- end }}

{{- define "dreambooth.doctorSecret" -}}
{{ default .Values.storage.credentialsSecret .Values.doctor.credentialsSecret }}
{{- end }}

{{/* Gone when all is well; what failed stays to be read, until the next `helm test`. */}}
{{- define "dreambooth.testHook" -}}
helm.sh/hook: test
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
